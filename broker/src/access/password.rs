//! Passwords as RabbitMQ keeps them: base64 of a 4-octet salt and the digest of salt and password.

use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::{BuildHasher, Hasher};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use md5::Md5;
use sha2::{Digest, Sha256, Sha512};
use thiserror::Error;

const SALT: usize = 4;

/// How a password was hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    Sha256,
    Sha512,
    /// Only in very old files.
    Md5,
}

const ALGORITHMS: &[(&str, Algorithm)] = &[
    ("rabbit_password_hashing_sha256", Algorithm::Sha256),
    ("rabbit_password_hashing_sha512", Algorithm::Sha512),
    ("rabbit_password_hashing_md5", Algorithm::Md5),
];

impl Algorithm {
    /// The algorithm of that name in RabbitMQ's definitions.
    pub fn parse(name: &str) -> Option<Algorithm> {
        ALGORITHMS.iter().find(|(known, _)| *known == name).map(|(_, algorithm)| *algorithm)
    }

    pub fn as_str(self) -> &'static str {
        ALGORITHMS.iter().find(|(_, algorithm)| *algorithm == self).map_or("", |(name, _)| name)
    }

    fn digest(self, salt: &[u8], password: &[u8]) -> Vec<u8> {
        let salted = [salt, password].concat();
        match self {
            Algorithm::Sha256 => Sha256::digest(salted).to_vec(),
            Algorithm::Sha512 => Sha512::digest(salted).to_vec(),
            Algorithm::Md5 => Md5::digest(salted).to_vec(),
        }
    }
}

/// Why a text is no password hash.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum HashError {
    #[error("unknown hashing_algorithm '{0}'")]
    Algorithm(String),
    #[error("password_hash is not base64 of a salt and a hash")]
    Malformed,
}

/// A password that can be checked and not read.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordHash {
    pub algorithm: Algorithm,
    /// Salt and digest; empty: no password is right.
    octets: Vec<u8>,
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("(not shown)")
    }
}

impl PasswordHash {
    /// Hashes a password with SHA-256 and a salt that nobody chose.
    pub fn of(password: &str) -> PasswordHash {
        let random = RandomState::new().build_hasher().finish().to_be_bytes();
        PasswordHash::salted(Algorithm::Sha256, &random[..SALT], password)
    }

    fn salted(algorithm: Algorithm, salt: &[u8], password: &str) -> PasswordHash {
        let mut octets = salt.to_vec();
        octets.extend(algorithm.digest(salt, password.as_bytes()));
        PasswordHash { algorithm, octets }
    }

    /// Reads a hash as RabbitMQ's definitions write it. The empty text lets nobody in by password.
    ///
    /// # Errors
    /// [`HashError`] if `algorithm` is unknown, or `text` is not base64 of as many octets as that makes.
    pub fn parse(algorithm: &str, text: &str) -> Result<PasswordHash, HashError> {
        let algorithm = Algorithm::parse(algorithm).ok_or_else(|| HashError::Algorithm(algorithm.to_owned()))?;
        let octets = STANDARD.decode(text).map_err(|_| HashError::Malformed)?;
        let length = SALT + algorithm.digest(&[], &[]).len();
        if !octets.is_empty() && octets.len() != length {
            return Err(HashError::Malformed);
        }
        Ok(PasswordHash { algorithm, octets })
    }

    /// As RabbitMQ's definitions write it.
    pub fn to_base64(&self) -> String {
        STANDARD.encode(&self.octets)
    }

    /// Whether it is the hash of `password`. Nobody gets in with an empty one.
    pub fn accepts(&self, password: &[u8]) -> bool {
        let Some((salt, digest)) = self.octets.split_at_checked(SALT) else { return false };
        !password.is_empty() && same(&self.algorithm.digest(salt, password), digest)
    }
}

/// Compares in a time that does not tell where the first difference is.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHA256: &str = "rabbit_password_hashing_sha256";
    const VECTOR: &str = "kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR";

    #[test]
    fn the_hash_is_base64_of_salt_and_sha256_of_salt_and_password() {
        let made = PasswordHash::salted(Algorithm::Sha256, &[0x90, 0x8d, 0xc6, 0x0a], "test12");
        assert_eq!(made.to_base64(), VECTOR);
        let read = PasswordHash::parse(SHA256, VECTOR).expect("a hash");
        assert_eq!(read, made);
        assert!(read.accepts(b"test12"));
        assert!(!read.accepts(b"test13"));
    }

    #[test]
    fn all_three_algorithms_are_read_and_checked() {
        for (name, algorithm) in ALGORITHMS {
            let made = PasswordHash::salted(*algorithm, &[1, 2, 3, 4], "secret");
            let read = PasswordHash::parse(name, &made.to_base64()).expect("a hash");
            assert!(read.accepts(b"secret") && !read.accepts(b"Secret"), "{name}");
        }
    }

    #[test]
    fn an_empty_hash_or_password_lets_nobody_in() {
        let none = PasswordHash::parse(SHA256, "").expect("the empty hash");
        assert!(!none.accepts(b"") && !none.accepts(b"x"));
        assert!(!PasswordHash::of("").accepts(b""));
    }

    #[test]
    fn two_hashes_of_a_password_have_different_salts() {
        assert_ne!(PasswordHash::of("guest"), PasswordHash::of("guest"));
    }

    #[test]
    fn what_is_no_hash_is_refused() {
        assert_eq!(PasswordHash::parse("crypt", ""), Err(HashError::Algorithm("crypt".to_owned())));
        assert_eq!(PasswordHash::parse(SHA256, "?"), Err(HashError::Malformed));
        assert_eq!(PasswordHash::parse(SHA256, "AAAA"), Err(HashError::Malformed));
    }
}
