//! The preloaded library that injects one disk error, compiled when it is needed.

use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use crate::Failure;

const SOURCE: &str = include_str!("shim.c");

pub struct Shim {
    library: PathBuf,
    arm: PathBuf,
    fired: PathBuf,
}

impl Shim {
    /// Compiles it into `dir`. A machine without a C compiler skips.
    pub fn compile(dir: &Path) -> Result<Shim, Failure> {
        let source = dir.join("shim.c");
        let library = dir.join("shim.so");
        std::fs::write(&source, SOURCE).map_err(Failure::io("writing the shim"))?;
        let mut gcc = Command::new("gcc");
        gcc.args(["-shared", "-fPIC", "-O1", "-o"])
            .arg(&library)
            .arg(&source)
            .arg("-ldl");
        match gcc.output() {
            Err(_) => return Err(Failure::Skip("gcc is not installed".into())),
            Ok(output) if !output.status.success() => {
                let said = String::from_utf8_lossy(&output.stderr).into_owned();
                return Err(Failure::Skip(format!(
                    "gcc cannot compile the shim: {said}"
                )));
            }
            Ok(_) => {}
        }
        Ok(Shim {
            library,
            arm: dir.join("arm"),
            fired: dir.join("arm.fired"),
        })
    }

    /// For a member with its data in `data`.
    pub fn environment(&self, data: &Path) -> Vec<(OsString, OsString)> {
        let data = data.canonicalize().unwrap_or_else(|_| data.to_owned());
        vec![
            ("LD_PRELOAD".into(), self.library.clone().into()),
            ("NEMESIS_ARM".into(), self.arm.clone().into()),
            ("NEMESIS_DIR".into(), data.into()),
        ]
    }

    /// The next call of that kind fails; with `always`, all from then on.
    pub fn arm(&self, kind: &str, always: bool) -> Result<(), Failure> {
        self.write(if always {
            format!("{kind}+")
        } else {
            kind.to_owned()
        })
    }

    /// Every sync takes so many milliseconds longer, by chance between the two.
    pub fn slow_down(&self, from: u32, to: u32) -> Result<(), Failure> {
        self.write(format!("slow {from} {to}"))
    }

    fn write(&self, text: String) -> Result<(), Failure> {
        let part = self.arm.with_extension("part");
        // Whole or not there: the member looks at it all the time.
        let written = std::fs::write(&part, text).and_then(|()| std::fs::rename(&part, &self.arm));
        written.map_err(Failure::io("arming the shim"))
    }

    /// How long ago the error was injected, if it was.
    pub fn fired(&self) -> Option<Duration> {
        let meta = std::fs::metadata(&self.fired).ok()?;
        let nanos = u32::try_from(meta.ctime_nsec()).ok()?;
        let at = SystemTime::UNIX_EPOCH + Duration::new(u64::try_from(meta.ctime()).ok()?, nanos);
        Some(SystemTime::now().duration_since(at).unwrap_or_default())
    }

    pub fn disarm(&self) {
        // Whichever of the two is there.
        let _ = std::fs::remove_file(&self.arm);
        let _ = std::fs::remove_file(&self.fired);
    }
}
