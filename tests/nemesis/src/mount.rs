//! A file system of our own in a loop-mounted image, whose power can be cut.
//! Promise: whatever happens, the mount is gone when the value is; the loop device goes with it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::unistd::Uid;

use crate::Failure;

/// Sparse: only what is written takes room.
const IMAGE_BYTES: u64 = 4 << 30;
/// Attempts to unmount while the kernel still lets go of a killed process's files, and the pause between two.
const UNMOUNTS: u32 = 100;
const UNMOUNT_PAUSE: Duration = Duration::from_millis(20);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileSystem {
    Ext4,
    Xfs,
}

impl std::fmt::Display for FileSystem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            FileSystem::Ext4 => "ext4",
            FileSystem::Xfs => "xfs",
        })
    }
}

pub struct LoopMount {
    image: PathBuf,
    point: PathBuf,
    mounted: bool,
}

impl LoopMount {
    /// Makes the file system `name` below `home` and mounts it. What this machine cannot do is a skip.
    pub fn make(file_system: FileSystem, home: &Path, name: &str) -> Result<LoopMount, Failure> {
        if !Uid::effective().is_root() {
            return Err(Failure::Skip("mounting needs root".into()));
        }
        let make = format!("mkfs.{file_system}");
        for tool in [&make, "perl", "mount", "umount"] {
            if !has(tool) {
                return Err(Failure::Skip(format!("{tool} is not installed")));
            }
        }
        let mut mount = LoopMount {
            image: home.join(format!("{name}.image")),
            point: home.join(name),
            mounted: false,
        };
        let image = std::fs::File::create(&mount.image);
        image
            .and_then(|f| f.set_len(IMAGE_BYTES))
            .map_err(Failure::io("making an image"))?;
        std::fs::create_dir(&mount.point).map_err(Failure::io("making a mount point"))?;
        command(Command::new(make).arg("-q").arg(&mount.image))?;
        let mounted = mount.mount();
        mounted.map_err(|e| {
            // The reason is one line, always the same, so that a list can name it; what happened is beside it.
            eprintln!("{e}");
            Failure::Skip("no loop mounts here".into())
        })?;
        Ok(mount)
    }

    pub fn point(&self) -> &Path {
        &self.point
    }

    pub fn mount(&mut self) -> Result<(), Failure> {
        let mut mount = Command::new("mount");
        command(mount.args(["-o", "loop"]).arg(&self.image).arg(&self.point))?;
        self.mounted = true;
        Ok(())
    }

    pub fn unmount(&mut self) -> Result<(), Failure> {
        for attempt in 1.. {
            match command(Command::new("umount").arg(&self.point)) {
                Ok(()) => break,
                Err(e) if attempt == UNMOUNTS => return Err(e),
                Err(_) => std::thread::sleep(UNMOUNT_PAUSE),
            }
        }
        self.mounted = false;
        Ok(())
    }
}

/// Stops the file systems where they stand, all within a moment: nothing that has not reached the disk by now ever will. Everything
/// in them fails until they are mounted again.
pub fn cut<'a>(mounts: impl Iterator<Item = &'a LoopMount>) -> Result<(), Failure> {
    // EXT4_IOC_SHUTDOWN and XFS_IOC_GOINGDOWN are one number; 2: without writing the journal first. By perl, for an ioctl is
    // unsafe in Rust.
    let script = r#"my @d; for (@ARGV) { open(my $h, "<", $_) or die "open: $!"; push @d, $h; } for (@d) { my $f = pack("L", 2); ioctl($_, 0x8004587d, $f) or die "ioctl: $!"; }"#;
    let points = mounts.map(LoopMount::point);
    command(Command::new("perl").args(["-e", script]).args(points))
}

impl Drop for LoopMount {
    fn drop(&mut self) {
        if self.mounted && self.unmount().is_err() {
            // Detached now, unmounted when its last file is closed.
            if let Err(e) = command(Command::new("umount").arg("-l").arg(&self.point)) {
                eprintln!("{} stays mounted: {e}", self.point.display());
            }
        }
    }
}

pub fn has(tool: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(system)
        .any(|dir| dir.join(tool).is_file())
}

pub fn command(command: &mut Command) -> Result<(), Failure> {
    let what = format!("{command:?}");
    let output = command.output().map_err(Failure::io(what.clone()))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let cause = std::io::Error::other(format!("{}: {}", output.status, said.trim()));
    Err(Failure::io(what)(cause))
}
