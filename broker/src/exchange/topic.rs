//! Topic: keys are words between dots; in a binding key `*` is exactly one word and `#` any number of them.
//!
//! The bindings are a trie over words. A message visits each node at most once, however many `#` there are: a node
//! is visited together with *all* positions of the key from which the rest of its patterns may go on. Above the
//! first `#` of a pattern that is a single position, and the set is not needed.

use std::sync::Arc;

use super::Destination;
use super::bindings::{Arguments, Bindings};
use super::positions::{Positions, Wide};
use super::small_map::SmallMap;

/// The words of a key. The empty key has none; `a..b` has an empty one in the middle.
fn words(key: &[u8]) -> impl Iterator<Item = &[u8]> {
    let some = (!key.is_empty()).then(|| key.split(|octet| *octet == b'.'));
    some.into_iter().flatten()
}

/// The trie. Binding keys are short strings (at most 255 octets), so it is at most 256 nodes deep and may be walked
/// recursively.
#[derive(Clone)]
pub(super) struct TopicTable<D> {
    root: Arc<Node<D>>,
}

/// One word further on the way of a pattern. Only the root may be without bindings below it.
#[derive(Clone)]
struct Node<D> {
    /// The bindings whose pattern ends here.
    bindings: Bindings<D, Arguments>,
    literals: SmallMap<Arc<[u8]>, Arc<Node<D>>>,
    star: Option<Arc<Node<D>>>,
    hash: Option<Arc<Node<D>>>,
}

impl<D: Destination> TopicTable<D> {
    pub fn new() -> Self {
        Self { root: Arc::new(Node::new()) }
    }

    pub fn is_empty(&self) -> bool {
        self.root.is_empty()
    }

    pub fn bind(&mut self, pattern: &[u8], binding: (D, Arguments)) -> bool {
        if self.contains(pattern, &binding) {
            return false; // before any node is copied
        }
        let mut node = Arc::make_mut(&mut self.root);
        for word in words(pattern) {
            node = Arc::make_mut(node.child_or_new(word));
        }
        node.bindings.add(binding)
    }

    pub fn unbind(&mut self, pattern: &[u8], binding: &(D, Arguments)) -> bool {
        let is_there = self.contains(pattern, binding);
        if is_there {
            Arc::make_mut(&mut self.root).remove(words(pattern), binding);
        }
        is_there
    }

    fn contains(&self, pattern: &[u8], binding: &(D, Arguments)) -> bool {
        let mut node = &self.root;
        for word in words(pattern) {
            match node.child(word) {
                Some(child) => node = child,
                None => return false,
            }
        }
        node.bindings.contains(binding)
    }

    /// Calls `found` for each matching binding, once.
    pub fn route(&self, key: &[u8], found: &mut dyn FnMut(&D)) {
        // One bit of the set is needed for the end of the key as well.
        const MOST: usize = u64::BITS as usize - 1;
        let mut short = [&b""[..]; MOST];
        let mut count = 0;
        for word in words(key) {
            if count == MOST {
                let all: Vec<&[u8]> = words(key).collect();
                return Walk { words: &all, found }.at::<Wide>(&self.root, 0);
            }
            short[count] = word;
            count += 1;
        }
        let words = &short[..count];
        Walk { words, found }.at::<u64>(&self.root, 0);
    }
}

impl<D: Destination> Node<D> {
    fn new() -> Self {
        Self { bindings: Bindings::new(), literals: SmallMap::new(), star: None, hash: None }
    }

    fn is_empty(&self) -> bool {
        self.bindings.is_empty() && self.is_leaf()
    }

    fn is_leaf(&self) -> bool {
        self.literals.is_empty() && self.star.is_none() && self.hash.is_none()
    }

    fn child(&self, word: &[u8]) -> Option<&Arc<Node<D>>> {
        match word {
            b"*" => self.star.as_ref(),
            b"#" => self.hash.as_ref(),
            _ => self.literals.get(word),
        }
    }

    fn child_or_new(&mut self, word: &[u8]) -> &mut Arc<Node<D>> {
        let new = || Arc::new(Node::new());
        match word {
            b"*" => self.star.get_or_insert_with(new),
            b"#" => self.hash.get_or_insert_with(new),
            _ => self.literals.get_or_insert_with(word, new),
        }
    }

    /// Removes the binding at the end of `pattern`, and every node that is empty then.
    fn remove<'a>(&mut self, mut pattern: impl Iterator<Item = &'a [u8]>, binding: &(D, Arguments)) {
        let Some(word) = pattern.next() else {
            self.bindings.remove(binding);
            return;
        };
        let child = match word {
            b"*" => self.star.as_mut(),
            b"#" => self.hash.as_mut(),
            _ => self.literals.get_mut(word),
        };
        let Some(child) = child else { return };
        let child = Arc::make_mut(child);
        child.remove(pattern, binding);
        if child.is_empty() {
            match word {
                b"*" => self.star = None,
                b"#" => self.hash = None,
                _ => {
                    self.literals.remove(word);
                }
            }
        }
    }
}

/// One message on its way through the trie.
struct Walk<'a, D> {
    words: &'a [&'a [u8]],
    found: &'a mut dyn FnMut(&D),
}

impl<D: Destination> Walk<'_, D> {
    /// `node` with a single position: `words[at..]` is what its patterns have left to match.
    fn at<P: Positions>(&mut self, node: &Node<D>, at: usize) {
        match self.words.get(at) {
            None => node.bindings.each(self.found),
            Some(word) => {
                if let Some(child) = node.literals.get(*word) {
                    self.at::<P>(child, at + 1);
                }
                if let Some(child) = &node.star {
                    self.at::<P>(child, at + 1);
                }
            }
        }
        if let Some(child) = &node.hash {
            self.behind_hash::<P>(child, at);
        }
    }

    /// `node` is a `#` that stands at `first`: it may take any number of words, so all positions from there on count.
    fn behind_hash<P: Positions>(&mut self, node: &Node<D>, first: usize) {
        if node.is_leaf() {
            node.bindings.each(self.found);
        } else {
            self.at_all(node, P::range(first, self.words.len()));
        }
    }

    /// `node` with a set of positions, not empty.
    fn at_all<P: Positions>(&mut self, node: &Node<D>, at: P) {
        let end = self.words.len();
        if at.contains(end) {
            node.bindings.each(self.found);
        }
        if !node.literals.is_empty() {
            self.literals(node, at.clone());
        }
        if let Some(child) = &node.star {
            let mut next = P::none(end);
            at.each_below(end, |position| next.insert(position + 1));
            if next.first_from(0).is_some() {
                self.at_all(child, next);
            }
        }
        if let (Some(child), Some(first)) = (&node.hash, at.first_from(0)) {
            self.behind_hash::<P>(child, first);
        }
    }

    fn literals<P: Positions>(&mut self, node: &Node<D>, mut open: P) {
        let end = self.words.len();
        let mut from = 0;
        while let Some(position) = open.first_from(from).filter(|position| *position < end) {
            let word = self.words[position];
            if let Some(child) = node.literals.get(word) {
                // The same word further on leads to the same child: it goes along, so that the child is visited once.
                let mut next = P::none(end);
                let mut same = Some(position);
                while let Some(place) = same.filter(|place| *place < end) {
                    if self.words[place] == word {
                        open.remove(place);
                        next.insert(place + 1);
                    }
                    same = open.first_from(place + 1);
                }
                self.at_all(child, next);
            }
            from = position + 1;
        }
    }
}
