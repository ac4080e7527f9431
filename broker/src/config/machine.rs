//! How much memory there is to take a share of.

use std::fs;
use std::path::Path;

/// The bytes of memory this process may count on: what the machine has, or less where a control group (version 2 or
/// 1) allows less. `None` where neither can be read, as on a system that is not Linux.
pub fn memory_available() -> Option<u64> {
    memory_available_under(Path::new("/"))
}

/// The same, with `/proc` and `/sys` looked up under `root`.
fn memory_available_under(root: &Path) -> Option<u64> {
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let limits = groups.lines().filter_map(|line| group_limit(root, line));
    machine_memory(root).into_iter().chain(limits).min()
}

fn machine_memory(root: &Path) -> Option<u64> {
    let info = fs::read_to_string(root.join("proc/meminfo")).ok()?;
    let total = info.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = total.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// The least limit on the way from a group up to the root: a limit holds for everything below it. `line` is one of
/// `/proc/self/cgroup`: hierarchy, controllers, path.
fn group_limit(root: &Path, line: &str) -> Option<u64> {
    let mut fields = line.splitn(3, ':').skip(1);
    let (controllers, path) = (fields.next()?, fields.next()?);
    let (mount, file) = if controllers.is_empty() {
        ("sys/fs/cgroup", "memory.max")
    } else if controllers.split(',').any(|controller| controller == "memory") {
        ("sys/fs/cgroup/memory", "memory.limit_in_bytes")
    } else {
        return None;
    };
    let mount = root.join(mount);
    // Inside a container the path may be the host's and lead nowhere here; the mount's own root then has the limit.
    Path::new(path.trim_start_matches('/'))
        .ancestors()
        .filter_map(|group| fs::read_to_string(mount.join(group).join(file)).ok()?.trim().parse().ok())
        .min()
}

#[cfg(test)]
mod tests {
    use super::memory_available_under;
    use std::fs;
    use std::path::Path;

    const MEMINFO: &str = "MemTotal:        8000 kB\nMemFree:         1000 kB\n";

    fn machine(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    #[test]
    fn without_a_control_group_it_is_what_the_machine_has() {
        let root = machine(&[("proc/meminfo", MEMINFO), ("proc/self/cgroup", "0::/\n")]);
        assert_eq!(memory_available_under(root.path()), Some(8000 * 1024));
    }

    #[test]
    fn a_limit_of_an_outer_group_holds_for_an_inner_one() {
        let root = machine(&[
            ("proc/meminfo", MEMINFO),
            ("proc/self/cgroup", "0::/system.slice/leveret.service\n"),
            ("sys/fs/cgroup/system.slice/leveret.service/memory.max", "max\n"),
            ("sys/fs/cgroup/system.slice/memory.max", "4096000\n"),
        ]);
        assert_eq!(memory_available_under(root.path()), Some(4_096_000));
    }

    #[test]
    fn version_1_is_read_at_the_root_of_the_mount_when_the_path_is_the_hosts() {
        let root = machine(&[
            ("proc/meminfo", MEMINFO),
            ("proc/self/cgroup", "5:cpu:/x\n4:memory:/docker/0123\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "2048000\n"),
        ]);
        assert_eq!(memory_available_under(root.path()), Some(2_048_000));
    }

    #[test]
    fn version_1_without_a_limit_reads_as_more_than_the_machine_has() {
        let root = machine(&[
            ("proc/meminfo", MEMINFO),
            ("proc/self/cgroup", "4:memory:/\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
        ]);
        assert_eq!(memory_available_under(root.path()), Some(8000 * 1024));
    }

    #[test]
    fn where_nothing_can_be_read_it_is_unknown() {
        assert_eq!(memory_available_under(Path::new("/nonexistent")), None);
    }
}
