//! Regular expressions that administrators write: in policies and in permissions.
//!
//! RabbitMQ's are PCRE. The ones here have the same syntax for what is in use (classes, groups, alternatives, look-around,
//! back references); they are searched anywhere in a name, so `^` and `$` anchor.

use fancy_regex::Regex;
use thiserror::Error;

/// An expression that does not compile, and why.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct PatternError(String);

/// A compiled expression with its text.
#[derive(Clone, Debug)]
pub struct Pattern {
    text: Box<str>,
    /// `None`: it is found in every name, as is what most permissions consist of. An expression takes 100 KB.
    compiled: Option<Regex>,
}

impl Pattern {
    /// Compiles `text`.
    ///
    /// # Errors
    /// [`PatternError`] if it is no regular expression.
    pub fn parse(text: &str) -> Result<Pattern, PatternError> {
        let compile = || {
            Regex::new(text).map_err(|error| {
                let reason = error.to_string();
                PatternError(reason.lines().map(str::trim).collect::<Vec<_>>().join(" "))
            })
        };
        let compiled = if matches!(text, "" | ".*") { None } else { Some(compile()?) };
        Ok(Pattern { text: text.into(), compiled })
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether the expression is found in `name`. One that gives up, after a million steps back, has found nothing.
    pub fn finds(&self, name: &str) -> bool {
        self.compiled.as_ref().is_none_or(|compiled| compiled.is_match(name).unwrap_or(false))
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Pattern) -> bool {
        self.text == other.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finds(pattern: &str, name: &str) -> bool {
        Pattern::parse(pattern).is_ok_and(|pattern| pattern.finds(name))
    }

    #[test]
    fn an_expression_is_searched_anywhere_unless_it_is_anchored() {
        assert!(finds("job", "my-jobs"));
        assert!(!finds("^job", "my-jobs"));
        assert!(!finds("Job", "my-jobs"), "case matters");
    }

    #[test]
    fn what_says_nothing_is_found_everywhere() {
        for pattern in ["", ".*"] {
            assert!(["", "amq.topic", "a\nb"].iter().all(|name| finds(pattern, name)), "{pattern:?}");
        }
    }

    #[test]
    fn look_ahead_works_as_the_usual_pattern_for_all_but_the_predeclared_needs_it() {
        assert!(finds("^(?!amq\\.).*", "orders"));
        assert!(!finds("^(?!amq\\.).*", "amq.topic"));
    }

    #[test]
    fn what_is_no_expression_is_refused_in_one_line() {
        let error = Pattern::parse("(").expect_err("no expression").to_string();
        assert!(!error.is_empty() && !error.contains('\n'), "{error}");
    }
}
