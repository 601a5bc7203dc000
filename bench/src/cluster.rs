//! Clusters of server processes: started, looked at as a whole, grown by a learner, ended.
//! Promise: only processes started here are ended, by their own ids; dropping a cluster ends it and removes its data.
//! Not here: which programs (`find`), one process (`member`), what load.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use barque_proto::etcdserverpb::StatusResponse;
use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::Void;
use crate::ask;
use crate::fate::Fate;
use crate::limits::{
    ASK, FIRST_READ, FIRST_READ_RETRY, READY, READY_RETRY, REQUEST, RETRIALS, STOP,
};
use crate::member::{Member, Plan, peer_url};
use crate::ports;

/// One of the two that are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Side {
    Barque,
    Etcd,
}

impl std::fmt::Display for Side {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Side::Barque => "barque",
            Side::Etcd => "etcd",
        })
    }
}

/// A running cluster.
pub struct Cluster {
    pub side: Side,
    program: PathBuf,
    flags: Vec<String>,
    // Before the directory: the processes end before their data goes.
    members: Vec<Member>,
    dir: TempDir,
}

/// What all members agree on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Which of the members leads.
    pub leader: usize,
    pub term: u64,
    pub revision: i64,
}

impl Cluster {
    /// Starts `size` members with the given further flags and their data under `home`; waits until each of them serves
    /// linearizable reads.
    pub async fn start(
        side: Side,
        program: &Path,
        size: usize,
        home: &Path,
        flags: &[String],
    ) -> Result<Self, Void> {
        let dir = tempfile::tempdir_in(home).map_err(Void::io("making a directory"))?;
        let ports = ports::free(2 * size).map_err(Void::io("finding free ports"))?;
        let names: Vec<String> = (1..=size).map(|n| format!("m{n}")).collect();
        let initial: Vec<String> = (0..size)
            .map(|n| format!("{}={}", names[n], peer_url(ports[2 * n + 1])))
            .collect();
        let mut cluster = Cluster {
            side,
            program: program.to_owned(),
            flags: flags.to_vec(),
            members: Vec::new(),
            dir,
        };
        for (n, name) in names.iter().enumerate() {
            cluster.members.push(Member::start(&Plan {
                side,
                program,
                name,
                dir: cluster.dir.path(),
                client_port: ports[2 * n],
                peer_port: ports[2 * n + 1],
                initial_cluster: &initial.join(","),
                flags,
            })?);
        }
        for member in &mut cluster.members {
            member.ready(READY, READY_RETRY).await?;
        }
        Ok(cluster)
    }

    pub fn len(&self) -> usize {
        self.members.len()
    }

    pub fn member(&mut self, n: usize) -> &mut Member {
        &mut self.members[n]
    }

    pub fn addr(&self, n: usize) -> &str {
        self.members[n].addr()
    }

    /// Where clients connect, one address per member.
    pub fn addrs(&self) -> Vec<&str> {
        self.members.iter().map(Member::addr).collect()
    }

    /// The store's revision, as a linearizable read sees it.
    pub async fn revision(&self) -> Result<i64, Void> {
        let answer = ask::revision(self.addr(0), REQUEST).await;
        answer.map_err(|why| self.load_error(why))
    }

    /// The first member's data directory.
    pub fn data(&self) -> &Path {
        self.members[0].data()
    }

    /// Starts a killed member again. The time until its first linearizable read.
    pub async fn start_again(&mut self, n: usize) -> Result<Duration, Void> {
        self.members[n].start_again()?;
        self.members[n].ready(FIRST_READ, FIRST_READ_RETRY).await
    }

    /// Waits until every member says that it is ready and all name the same leader, term and revision. No writes may be under way.
    pub async fn settled(&mut self) -> Result<Standing, Void> {
        let began = Instant::now();
        loop {
            let why = match self.standing().await {
                Ok(standing) => return Ok(standing),
                Err(why) => why,
            };
            for member in &mut self.members {
                // A member that ended by itself is not waited for.
                member.patience(Duration::MAX, why.clone())?;
            }
            if began.elapsed() > READY {
                return Err(self.load_error(format!("it does not come to rest: {why}")));
            }
            tokio::time::sleep(READY_RETRY).await;
        }
    }

    async fn standing(&self) -> Result<Standing, String> {
        let mut statuses = Vec::new();
        for member in &self.members {
            member.says_ready().await?;
            let status = ask::status(member.addr(), ASK).await;
            statuses.push(status.map_err(|error| error.to_string())?);
        }
        agreed(&statuses)
    }

    /// Whether no other leader was elected since, as a follower knows it.
    pub async fn still(&self, standing: Standing) -> Result<bool, Void> {
        let follower = (standing.leader + 1) % self.len();
        let status = ask::status(self.addr(follower), ASK).await;
        let status = status.map_err(|why| self.load_error(why))?;
        Ok(status.raft_term == standing.term)
    }

    /// Waits, while writes go on, until a member that was started again says that it is ready and has what another one had.
    pub async fn caught_up(&mut self, n: usize) -> Result<(), Void> {
        let other = self.addr((n + 1) % self.len()).to_owned();
        loop {
            let why = match self.has_all_of(n, &other).await {
                Ok(()) => return Ok(()),
                Err(why) => why,
            };
            self.members[n].patience(READY, why)?;
            tokio::time::sleep(READY_RETRY).await;
        }
    }

    async fn has_all_of(&self, n: usize, other: &str) -> Result<(), String> {
        let told = |error: crate::client::CallError| error.to_string();
        let revision = ask::revision(other, ASK).await.map_err(told)?;
        self.members[n].says_ready().await?;
        let status = ask::status(self.addr(n), ASK).await.map_err(told)?;
        let own = status.header.map_or(0, |header| header.revision);
        if own < revision {
            return Err(format!("it is at revision {own} of {revision}"));
        }
        Ok(())
    }

    /// The highest term that any member knows of; `None` if none of them answers.
    pub async fn term(&self) -> Option<u64> {
        let asked = self.addrs().into_iter().map(|addr| ask::status(addr, ASK));
        let answers = futures::future::join_all(asked).await;
        answers.into_iter().flatten().map(|s| s.raft_term).max()
    }

    /// Announces one more member, a learner, and starts it. Its id.
    pub async fn add_learner(&mut self, name: &str) -> Result<u64, Void> {
        let ports = ports::free(2).map_err(Void::io("finding free ports"))?;
        let url = peer_url(ports[1]);
        let began = Instant::now();
        let added = loop {
            match ask::add_learner(self.addr(0), &url, REQUEST).await {
                Ok(added) => break added,
                // etcd wants to have seen all members for a while first.
                Err(why) if why.fate() != Fate::Refused && began.elapsed() < READY => {
                    tokio::time::sleep(READY_RETRY).await;
                }
                Err(why) => return Err(self.load_error(format!("adding a member: {why}"))),
            }
        };
        let mut initial: Vec<String> = self
            .members
            .iter()
            .map(|member| format!("{}={}", member.name, member.peer_url))
            .collect();
        initial.push(format!("{name}={url}"));
        let mut flags = self.flags.clone();
        flags.extend(["--initial-cluster-state".to_owned(), "existing".to_owned()]);
        self.members.push(Member::start(&Plan {
            side: self.side,
            program: &self.program,
            name,
            dir: self.dir.path(),
            client_port: ports[0],
            peer_port: ports[1],
            initial_cluster: &initial.join(","),
            flags: &flags,
        })?);
        Ok(added.id)
    }

    /// Removes the member that was added last, its process and its data.
    pub async fn remove_last(&mut self, id: u64) -> Result<(), Void> {
        let removed = ask::remove(self.addr(0), id, REQUEST).await;
        removed.map_err(|why| self.load_error(format!("removing a member: {why}")))?;
        let mut last = self.members.pop().expect("it was added");
        if last.exited().is_none() {
            last.kill().await?;
        }
        std::fs::remove_dir_all(last.data()).map_err(Void::io("removing its data"))
    }

    /// The void of a load that failed, with what the servers say.
    pub fn load_error(&self, why: impl std::fmt::Display) -> Void {
        let logs = self
            .members
            .iter()
            .map(|member| format!("--- {} {}\n{}", self.side, member.name, member.tail()));
        Void::Load {
            who: self.side.to_string(),
            why: format!("{why}\n{}", logs.collect::<Vec<_>>().join("\n")),
        }
    }

    /// The void of a trial that never came to its fault.
    pub fn restless(&self) -> Void {
        self.load_error(format!(
            "its leader changed by itself {RETRIALS} times in a row"
        ))
    }

    pub fn pids(&self) -> Vec<u32> {
        self.members.iter().filter_map(Member::pid).collect()
    }

    /// Ends every member: SIGTERM, and SIGKILL for whoever does not go.
    pub async fn stop(mut self) -> Result<(), Void> {
        for member in &self.members {
            // All at once; it may have ended by itself just now.
            let _ = member.signal(Signal::SIGTERM);
        }
        for member in &mut self.members {
            member.gone(STOP).await?;
        }
        Ok(())
    }
}

/// `statuses` of all members, in their order.
fn agreed(statuses: &[StatusResponse]) -> Result<Standing, String> {
    let mut seen = Vec::new();
    for status in statuses {
        if let Some(error) = status.errors.first() {
            return Err(error.clone());
        }
        let header = status.header.as_ref().ok_or("a status without a header")?;
        seen.push((status.leader, status.raft_term, header.revision));
    }
    let Some(&first) = seen.first() else {
        return Err("no members".into());
    };
    if seen.iter().any(|other| *other != first) {
        return Err(format!("leader, term and revision differ: {seen:?}"));
    }
    let (leads, term, revision) = first;
    let leader = statuses.iter().position(|status| {
        let own = status.header.as_ref().map(|header| header.member_id);
        own == Some(leads)
    });
    let leader = leader.ok_or_else(|| format!("the leader {leads:x} is none of them"))?;
    Ok(Standing {
        leader,
        term,
        revision,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use barque_proto::etcdserverpb::ResponseHeader;

    #[tokio::test]
    async fn a_server_that_ends_at_once_is_reported_with_its_words() {
        let dir = tempfile::tempdir().unwrap();
        let script = dir.path().join("server");
        std::fs::write(&script, "#!/bin/sh\necho cannot do \"$2\"\nexit 3\n").unwrap();
        std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .unwrap();
        let result = Cluster::start(Side::Etcd, &script, 1, dir.path(), &[]).await;
        let error = result.err().unwrap().to_string();
        assert!(
            error.contains("exit status: 3") && error.contains("cannot do m1"),
            "{error}"
        );
    }

    #[test]
    fn members_are_settled_when_they_say_the_same_of_one_of_them() {
        let status = |member_id, leader, revision| StatusResponse {
            header: Some(ResponseHeader {
                member_id,
                revision,
                ..ResponseHeader::default()
            }),
            leader,
            raft_term: 4,
            ..StatusResponse::default()
        };
        let same = [status(1, 2, 9), status(2, 2, 9)];
        let expected = Standing {
            leader: 1,
            term: 4,
            revision: 9,
        };
        assert_eq!(agreed(&same), Ok(expected));
        assert!(agreed(&[status(1, 2, 9), status(2, 2, 8)]).is_err());
        assert!(agreed(&[status(1, 2, 9), status(2, 1, 9)]).is_err());
        assert!(agreed(&[status(1, 0, 9), status(2, 0, 9)]).is_err());
        let mut ill = same;
        ill[1].errors = vec!["etcdserver: no leader".into()];
        assert_eq!(agreed(&ill), Err("etcdserver: no leader".into()));
    }
}
