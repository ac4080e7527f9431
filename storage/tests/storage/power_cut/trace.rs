//! Recording: a process under strace, and what its calls were.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

/// Whatever changes files or names, or makes them durable, and what moves the place where a write goes.
const CALLS: &str = "trace=open,openat,creat,close,lseek,dup,dup2,dup3,fcntl,write,writev,pwrite64,pwritev,pwritev2,\
                     ftruncate,truncate,fallocate,rename,renameat,renameat2,unlink,unlinkat,rmdir,mkdir,mkdirat,link,\
                     linkat,symlink,symlinkat,fsync,fdatasync,sync,syncfs,sync_file_range,copy_file_range,sendfile";
/// Longer than any single buffer that is written.
const LONGEST: &str = "4194304";

/// One system call.
#[derive(Debug)]
pub struct Call {
    pub name: String,
    pub arguments: Vec<Argument>,
    /// What it returned; `None`: the process ended before it did.
    pub result: Option<i64>,
    /// The lines at which it began and ended.
    pub begin: usize,
    pub end: usize,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Argument {
    /// A number, flags, or nothing that matters.
    Word(String),
    Bytes(Vec<u8>),
}

impl Argument {
    pub fn number(&self) -> i64 {
        match self {
            Argument::Word(word) => word.parse().unwrap_or_else(|_| panic!("{word} is a number")),
            Argument::Bytes(_) => panic!("a number, not bytes"),
        }
    }

    pub fn word(&self) -> &str {
        match self {
            Argument::Word(word) => word,
            Argument::Bytes(_) => panic!("a word, not bytes"),
        }
    }

    pub fn bytes(&self) -> &[u8] {
        match self {
            Argument::Bytes(bytes) => bytes,
            Argument::Word(word) => panic!("bytes, not {word}"),
        }
    }

    pub fn path(&self) -> &Path {
        Path::new(std::str::from_utf8(self.bytes()).expect("paths in UTF-8"))
    }
}

/// Runs this very program again under strace, with one test and one variable, until it ends by itself.
pub fn record(test: &str, variables: &[(&str, &OsStr)], trace: &Path) {
    let program = std::env::current_exe().expect("the test program has a name");
    let status = Command::new("strace")
        .args(["-f", "--seccomp-bpf", "-q", "-s", LONGEST, "-e", CALLS, "-e", "signal=none", "-o"])
        .arg(trace)
        .arg(program)
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .expect("strace is installed");
    assert!(status.success(), "the recorded process did its work: {status}");
}

/// The calls in a file that strace wrote, by where they began.
pub fn read(trace: &Path) -> Vec<Call> {
    let text = fs::read(trace).expect("strace writes its file");
    let mut calls: Vec<Call> = Vec::new();
    // By thread: what has begun, and where.
    let mut begun: HashMap<&[u8], (usize, Vec<u8>)> = HashMap::new();
    for (at, line) in text.split(|byte| *byte == b'\n').enumerate() {
        let Some(space) = line.iter().position(|byte| *byte == b' ') else { continue };
        let (thread, rest) = (&line[..space], line[space..].trim_ascii_start());
        if let Some(head) = rest.strip_suffix(b" <unfinished ...>") {
            begun.insert(thread, (at, head.to_vec()));
        } else if let Some(resumed) = rest.strip_prefix(b"<... ") {
            let Some((begin, mut head)) = begun.remove(thread) else { continue };
            let tail = find(resumed, b" resumed>").expect("a call that goes on says so") + b" resumed>".len();
            head.extend_from_slice(&resumed[tail..]);
            calls.extend(parse(&head, begin, at));
        } else {
            calls.extend(parse(rest, at, at));
        }
    }
    for (begin, mut head) in begun.into_values() {
        head.extend_from_slice(b") = ?");
        calls.extend(parse(&head, begin, usize::MAX));
    }
    calls.sort_by_key(|call| call.begin);
    calls
}

/// Where a file was cut while another thread wrote to it, the one that began first is taken for the later one.
pub fn exchange_overlapping(calls: &mut [Call]) {
    let touches = |call: &Call| ["ftruncate", "pwrite64", "write", "writev"].contains(&&*call.name);
    for first in 0..calls.len() {
        let Some(end) = Some(calls[first].end).filter(|_| touches(&calls[first])) else { continue };
        let others = calls[first + 1..].iter().take_while(|other| other.begin < end);
        let others = others.filter(|other| touches(other) && other.arguments[0] == calls[first].arguments[0]);
        let cut = |call: &Call| call.name == "ftruncate";
        let last = others.filter(|other| cut(other) || cut(&calls[first])).map(|other| other.end).max();
        if let Some(last) = last.filter(|last| *last != usize::MAX) {
            calls[first].begin = last;
            calls[first].end = end.max(last);
        }
    }
    // What was moved behind a call on a single line begins on that line, and ends later.
    calls.sort_by_key(|call| (call.begin, call.end));
}

/// `pwrite64(7, "ab\0", 3, 20) = 3`; `None` for what is no call, or a failed one.
fn parse(text: &[u8], begin: usize, end: usize) -> Option<Call> {
    let open = text.iter().position(|byte| *byte == b'(')?;
    let name = std::str::from_utf8(&text[..open]).ok()?;
    if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
        return None;
    }
    let mut rest = &text[open + 1..];
    let mut arguments = Vec::new();
    loop {
        let (argument, len) = parse_argument(rest);
        arguments.push(argument);
        rest = rest[len..].trim_ascii_start();
        match rest.first() {
            Some(b',') => rest = rest[1..].trim_ascii_start(),
            _ => break,
        }
    }
    let result = &rest[find(rest, b"= ").unwrap_or_else(|| panic!("the outcome of {name}")) + 2..];
    let result = std::str::from_utf8(result).ok()?.split_whitespace().next()?;
    let result = if result == "?" { None } else { Some(result.parse().ok()?) };
    // Of a thread that ends with its process strace sometimes shows a call whose number it could not read any more.
    if result.is_none() && name.starts_with("syscall_") {
        return None;
    }
    (result.is_none_or(|result| result >= 0)).then(|| Call { name: name.to_owned(), arguments, result, begin, end })
}

/// An argument and how many bytes it takes. The buffers of a vectored write become one.
fn parse_argument(text: &[u8]) -> (Argument, usize) {
    match text.first() {
        Some(b'"') => {
            let (bytes, len) = parse_string(text);
            (Argument::Bytes(bytes), len)
        }
        Some(b'[') => {
            let (mut bytes, mut at) = (Vec::new(), 1);
            while let Some(byte) = text.get(at).filter(|byte| **byte != b']') {
                if *byte == b'"' {
                    let (part, len) = parse_string(&text[at..]);
                    bytes.extend_from_slice(&part);
                    at += len;
                } else {
                    assert_ne!(text.get(at..at + 3), Some(&b"..."[..]), "all buffers are shown");
                    at += 1;
                }
            }
            (Argument::Bytes(bytes), at + 1)
        }
        _ => {
            let mut depth = 0;
            let end = text.iter().position(|byte| {
                depth += i32::from(*byte == b'{' || *byte == b'(') - i32::from(*byte == b'}');
                let ends = depth == 0 && (*byte == b',' || *byte == b')');
                depth -= i32::from(*byte == b')');
                ends
            });
            let end = end.unwrap_or(text.len());
            (Argument::Word(String::from_utf8_lossy(&text[..end]).trim().to_owned()), end)
        }
    }
}

/// A string as C writes it.
fn parse_string(text: &[u8]) -> (Vec<u8>, usize) {
    let mut bytes = Vec::new();
    let mut at = 1;
    loop {
        let byte = text[at];
        at += 1;
        match byte {
            b'"' => break,
            b'\\' => {
                let escaped = text[at];
                at += 1;
                bytes.push(match escaped {
                    b'n' => b'\n',
                    b't' => b'\t',
                    b'r' => b'\r',
                    b'v' => 0x0b,
                    b'f' => 0x0c,
                    b'0'..=b'7' => {
                        let mut value = u32::from(escaped - b'0');
                        for _ in 0..2 {
                            match text[at] {
                                digit @ b'0'..=b'7' => value = value * 8 + u32::from(digit - b'0'),
                                _ => break,
                            }
                            at += 1;
                        }
                        value as u8
                    }
                    other => other,
                });
            }
            other => bytes.push(other),
        }
    }
    assert_ne!(text.get(at..at + 3), Some(&b"..."[..]), "all of a buffer is shown");
    (bytes, at)
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
}
