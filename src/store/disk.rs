//! What kind of filesystem a file is on: SQLite's locks and its shared memory work within one machine.

use std::path::Path;

/// What is said of a filesystem that a store should not be on; `None` where it is good, or cannot be told.
pub fn unsafe_disk(path: &Path) -> Option<&'static str> {
    // The numbers are those of 32 bits, whatever type the system gives them in.
    danger(rustix::fs::statfs(path).ok()?.f_type as u32)
}

/// How much room, in bytes, a disk has left for this user.
///
/// # Errors
/// What the system says.
pub fn room(path: &Path) -> std::io::Result<u64> {
    let disk = rustix::fs::statvfs(path)?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// By the magic number of a filesystem (`statfs(2)` and Linux's `magic.h`).
///
/// Of FUSE the number does not tell what stands behind it, a disk of this machine (NTFS) or another machine (sshfs, S3,
/// GlusterFS, the shared folders of a virtual machine); so it is named, and the user judges.
fn danger(magic: u32) -> Option<&'static str> {
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
        0x786f_4256 => "a shared folder of VirtualBox",
        0xbacb_acbc => "a shared folder of VMware",
        0x6573_5546 => "FUSE, which may be one over the network",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_of_other_machines_are_told_from_those_of_this_one() {
        // As `statfs` gives them for what `mount` calls so.
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
            (0x6573_5546, "FUSE, which may be one over the network"),
        ] {
            assert_eq!(danger(magic), Some(name), "{magic:#x}");
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
            assert_eq!(danger(magic), None, "{magic:#x}");
        }
        assert_eq!(unsafe_disk(Path::new("/proc")), None);
        assert_eq!(unsafe_disk(Path::new("/nowhere")), None);
    }
}
