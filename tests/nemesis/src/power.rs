//! The power goes out under load, at one member or at all of them at once: what was not on the disk is lost, what was acknowledged
//! must not be. Each member has a file system of its own.

use std::path::PathBuf;
use std::time::Duration;

use crate::Failure;
use crate::chance::Chance;
use crate::kills::judgement;
use crate::member::{Member, Program, cluster_at, local_places, start_all};
use crate::mount::{FileSystem, LoopMount, cut};
use crate::report::{Report, times};
use crate::run::{Load, temporary};
use crate::shim::Shim;

#[derive(Clone, Debug)]
pub struct Options {
    pub program: Program,
    pub seed: u64,
    pub members: usize,
    /// Cuts of all members at once, and among them cuts of one.
    pub cuts: u32,
    pub cuts_of_one: u32,
    /// The members' file systems, in turn.
    pub file_systems: Vec<FileSystem>,
    /// Load between two cuts, about.
    pub between: Duration,
    /// The disk says that it has synced, and has not: to prove that this would be found.
    pub lying_disk: bool,
}

/// Cuts, waits a moment, ends who still runs, and mounts again what is left. How many had ended by themselves.
async fn outage(
    members: &mut [Member],
    mounts: &mut [LoopMount],
    victims: &[usize],
    chance: &mut Chance,
) -> Result<u32, Failure> {
    for &at in victims {
        members[at].still_runs()?;
    }
    cut(victims.iter().map(|at| &mounts[*at]))?;
    // They go on for a moment on disks that have stopped: nothing they say now may be a lie.
    tokio::time::sleep(chance.between(Duration::ZERO, Duration::from_millis(80))).await;
    let mut ended_alone = 0;
    for &at in victims {
        let member = &mut members[at];
        match member.exited() {
            Some(status) if status.success() => {
                return Err(member.failure("ended with success on a disk that failed"));
            }
            Some(_) => ended_alone += 1,
            None => member.kill(),
        }
    }
    for &at in victims {
        mounts[at].unmount()?;
        mounts[at].mount()?;
    }
    Ok(ended_alone)
}

/// A disk that lies from here on: a directory that was never there is too easy to find.
async fn lie(
    members: &mut [Member],
    mounts: &[LoopMount],
    home: &std::path::Path,
) -> Result<(), Failure> {
    let shim = Shim::compile(home)?;
    for (member, mount) in members.iter_mut().zip(mounts) {
        member.kill();
        member.set_environment(shim.environment(mount.point()));
    }
    shim.arm("lie", true)?;
    start_all(members).await
}

pub async fn run(options: &Options) -> Result<Report, Failure> {
    let home = temporary()?;
    // Declared before the members: they go first.
    let mut mounts = Vec::new();
    for n in 0..options.members {
        let file_system = options.file_systems[n % options.file_systems.len()];
        let name = format!("disk{}", n + 1);
        mounts.push(LoopMount::make(file_system, home.path(), &name)?);
    }
    let data: Vec<PathBuf> = mounts.iter().map(|m| m.point().join("data")).collect();
    let mut members = cluster_at(&options.program, &local_places(&data)?, home.path());
    start_all(&mut members).await?;
    if options.lying_disk {
        lie(&mut members, &mounts, home.path()).await?;
    }
    let load = Load::start(&members, options.seed);
    let mut chance = Chance::new(options.seed, 0xc47);
    let mut restarts = Vec::new();
    let mut ended_alone = 0;
    let (mut all, mut ones) = (options.cuts, options.cuts_of_one);
    while all + ones > 0 {
        tokio::time::sleep(chance.between(options.between / 4, options.between * 7 / 4)).await;
        let victims: Vec<usize> = if chance.below(u64::from(all + ones)) < u64::from(all) {
            all -= 1;
            (0..members.len()).collect()
        } else {
            ones -= 1;
            vec![chance.below(members.len() as u64) as usize]
        };
        ended_alone += outage(&mut members, &mut mounts, &victims, &mut chance).await?;
        for &at in &victims {
            members[at].start()?;
        }
        for &at in &victims {
            restarts.push(members[at].ready().await?);
        }
        load.serves().await?;
        load.check()?;
    }
    tokio::time::sleep(options.between).await;
    for member in &mut members {
        member.still_runs()?;
    }
    let judged = load.judged(&mut members).await?;
    drop(members);
    let on: Vec<String> = options.file_systems.iter().map(|f| f.to_string()).collect();
    let title = format!("power cuts under load, {}", on.join(" and "));
    let mut report = Report::new(&title, &options.program);
    report.row("seed", options.seed);
    report.row("members", options.members);
    report.row(
        "cuts",
        format!(
            "{} of all, {} of one; {ended_alone} members had ended by themselves before they were killed",
            options.cuts, options.cuts_of_one
        ),
    );
    report.row(
        "from start to the first linearizable read",
        times(&mut restarts),
    );
    judgement(&mut report, &judged);
    Ok(report)
}
