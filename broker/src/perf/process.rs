//! What a process of this machine has used so far, as the kernel tells it.

use std::fs;
use std::io::{Error, ErrorKind, Result};

/// Clock ticks a second in /proc, the same on every Linux a broker runs on.
const TICKS: f64 = 100.0;

/// Seconds of CPU time of all threads, also those that have ended, in steps of 10 ms.
pub fn cpu_seconds(pid: u32) -> Result<f64> {
    parse_cpu(&fs::read_to_string(format!("/proc/{pid}/stat"))?)
        .ok_or_else(|| Error::new(ErrorKind::InvalidData, "its /proc/…/stat is not as expected"))
}

/// Resident memory now, in bytes.
pub fn resident_bytes(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib: Option<u64> = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok());
    kib.map(|kib| kib << 10).ok_or_else(|| Error::new(ErrorKind::InvalidData, "it has no VmRSS"))
}

/// User and system time. The second field is the program's name, in which anything may stand, so counting begins
/// behind its bracket.
fn parse_cpu(stat: &str) -> Option<f64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some((user + system) as f64 / TICKS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found_behind_any_name() {
        let stat = "12 (a b) c) S 1 12 12 0 -1 4194304 100 0 0 0 250 50 7 8 20 0 5 0 1 2 3";
        assert_eq!(parse_cpu(stat), Some(3.0));
        assert_eq!(parse_cpu("12 (a"), None);
    }

    #[test]
    fn this_process_has_memory_and_has_used_some_time() {
        let me = std::process::id();
        assert!(resident_bytes(me).is_ok_and(|bytes| bytes > 1 << 16));
        assert!(cpu_seconds(me).is_ok_and(|seconds| seconds >= 0.0));
        assert!(cpu_seconds(u32::MAX).is_err());
    }
}
