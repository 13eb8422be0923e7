//! Detects filesystems on which a store is not safe, and free space.
//!
//! SQLite's locks and shared memory work within one machine only. This module does not know SQLite or stores.

use std::path::Path;

/// Returns the name of the filesystem of `path` if a store is not safe there; `None` if it is safe or unknown.
pub fn unsafe_filesystem(path: &Path) -> Option<&'static str> {
    // The magic numbers have 32 bits; the type of the field depends on the system.
    unsafe_filesystem_by_magic(rustix::fs::statfs(path).ok()?.f_type as u32)
}

/// Returns the number of bytes that are free for this user on the filesystem of `path`.
///
/// # Errors
/// Any error of `statvfs(2)`.
pub fn free_bytes(path: &Path) -> std::io::Result<u64> {
    let stats = rustix::fs::statvfs(path)?;
    Ok(stats.f_bavail.saturating_mul(stats.f_frsize))
}

/// Returns the size of the store at `path` with its WAL, in bytes. Files that do not exist count as empty.
pub fn bytes_on_disk(path: &Path) -> u64 {
    let mut wal_path = path.as_os_str().to_owned();
    wal_path.push("-wal");
    [path, Path::new(&wal_path)].iter().filter_map(|path| path.metadata().ok()).map(|file| file.len()).sum()
}

/// Returns the name of an unsafe filesystem by its magic number (`statfs(2)` and Linux's `magic.h`).
///
/// FUSE has one number for local disks (NTFS) and for the network (sshfs, S3, GlusterFS, shared folders of virtual
/// machines). So it counts as unsafe, and the user decides.
fn unsafe_filesystem_by_magic(magic: u32) -> Option<&'static str> {
    Some(match magic {
        0x6969 => "NFS",
        0x517b | 0xff53_4d42 | 0xfe53_4d42 => "SMB",
        0x0102_1997 => "9p",
        0x00c3_6400 => "Ceph",
        0x5346_414f | 0x6b41_4653 => "AFS",
        0x0116_1970 => "GFS2",
        0x7461_636f => "OCFS2",
        0x0bd0_0bd0 => "Lustre",
        0x7375_7245 => "Coda",
        0x4750_4653 => "GPFS",
        0x1983_0326 => "BeeGFS",
        0x2003_0528 => "OrangeFS",
        0x786f_4256 => "a VirtualBox shared folder",
        0xbacb_acbc => "a VMware shared folder",
        0x6573_5546 => "FUSE, which may be a network filesystem",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn network_filesystems_are_detected() {
        // Magic numbers as `statfs` returns them, with the names that `mount` prints.
        for (magic, name) in [
            (0x6969, "NFS"),
            (0xff53_4d42, "SMB"),
            (0xfe53_4d42, "SMB"),
            (0x0102_1997, "9p"),
            (0x00c3_6400, "Ceph"),
            (0x5346_414f, "AFS"),
            (0x0116_1970, "GFS2"),
            (0x7461_636f, "OCFS2"),
            (0x0bd0_0bd0, "Lustre"),
            (0x6573_5546, "FUSE, which may be a network filesystem"),
        ] {
            assert_eq!(unsafe_filesystem_by_magic(magic), Some(name), "{magic:#x}");
        }
        // ext4, XFS, btrfs, tmpfs, overlayfs, ZFS, F2FS, bcachefs, ramfs, exFAT, FAT.
        for magic in [
            0xef53,
            0x5846_5342,
            0x9123_683e,
            0x0102_1994,
            0x794c_7630,
            0x2fc1_2fc1,
            0xf2f5_2010,
            0xca45_1a4e,
            0x8584_58f6,
            0x2011_bab0,
            0x4d44,
        ] {
            assert_eq!(unsafe_filesystem_by_magic(magic), None, "{magic:#x}");
        }
        assert_eq!(unsafe_filesystem(Path::new("/proc")), None);
        assert_eq!(unsafe_filesystem(Path::new("/nowhere")), None);
    }
}
