//! The power goes out under load: what was not on the disk is lost, what was acknowledged must not be.

use std::time::Duration;

use crate::Failure;
use crate::chance::Chance;
use crate::kills::judgement;
use crate::member::{Program, cluster};
use crate::mount::{FileSystem, LoopMount};
use crate::report::{Report, times};
use crate::run::{Load, temporary};
use crate::shim::Shim;

#[derive(Clone, Debug)]
pub struct Options {
    pub program: Program,
    pub seed: u64,
    pub cuts: u32,
    pub file_system: FileSystem,
    /// Load between two cuts, about.
    pub between: Duration,
    /// The disk says that it has synced, and has not: to prove that this would be found.
    pub lying_disk: bool,
}

pub async fn run(options: &Options) -> Result<Report, Failure> {
    let home = temporary()?;
    // Declared before the members: they go first.
    let mut mount = LoopMount::make(options.file_system, home.path())?;
    let mut members = cluster(&options.program, 1, mount.point(), home.path())?;
    members[0].start()?;
    members[0].ready().await?;
    if options.lying_disk {
        // From here on: a directory that was never there is too easy to find.
        members[0].kill();
        let shim = Shim::compile(home.path())?;
        members[0].set_environment(shim.environment(mount.point()));
        shim.arm("lie", true)?;
        members[0].start()?;
        members[0].ready().await?;
    }
    let load = Load::start(&members, options.seed);
    let mut chance = Chance::new(options.seed, 0xc47);
    let mut restarts = Vec::new();
    let mut ended_alone = 0;
    for _ in 0..options.cuts {
        tokio::time::sleep(chance.between(options.between / 4, options.between * 7 / 4)).await;
        let member = &mut members[0];
        member.still_runs()?;
        mount.cut()?;
        // It goes on for a moment on a disk that has stopped: nothing it says now may be a lie.
        tokio::time::sleep(chance.between(Duration::ZERO, Duration::from_millis(80))).await;
        match member.exited() {
            Some(status) if status.success() => {
                return Err(member.failure("ended with success on a disk that failed"));
            }
            Some(_) => ended_alone += 1,
            None => member.kill(),
        }
        mount.unmount()?;
        mount.mount()?;
        member.start()?;
        restarts.push(member.ready().await?);
        load.check()?;
    }
    tokio::time::sleep(options.between).await;
    members[0].still_runs()?;
    let judged = load.judged(&mut members).await?;
    drop(members);
    let mut report = Report::new(
        &format!("power cuts under load, {}", options.file_system),
        &options.program,
    );
    report.row("seed", options.seed);
    report.row(
        "cuts",
        format!(
            "{}; in {ended_alone} the member had ended by itself before it was killed",
            options.cuts
        ),
    );
    report.row(
        "from start to the first linearizable read",
        times(&mut restarts),
    );
    judgement(&mut report, &judged);
    Ok(report)
}
