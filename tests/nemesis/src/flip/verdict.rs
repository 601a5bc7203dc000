//! What a member made of a flipped bit: it refused and named the place, or serves what it served before.
//! Promise: everything else is a violation, one that neither serves nor refuses included.

use std::time::{Duration, Instant};

use barque_proto::etcdserverpb::PutRequest;

use crate::Failure;
use crate::clients::revision;
use crate::member::{Member, answers, connect, kv};
use crate::picture::{Picture, difference, picture, without_the_last};

/// How long a flipped member may take to decide. After it: a violation, for it does neither.
pub const DECIDES: Duration = Duration::from_secs(20);
/// How long a member that failed a request may take to say why.
const SPEAKS: Duration = Duration::from_secs(2);

/// What a member made of a flipped bit. Anything else breaks the promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It did not start, and named file and offset.
    Refused,
    /// It started, and refused or ended with file and offset named when it came to the place.
    RefusedLater,
    /// Everything as before.
    Served,
    /// All but the very last write.
    Cut,
}

/// Starts are over: what does it do?
pub async fn verdict(
    member: &mut Member,
    truth: &Picture,
    names: &[String],
) -> Result<Verdict, Failure> {
    if !decided(member, names).await? {
        return Ok(Verdict::Refused);
    }
    let seen = match picture(member.addr(), DECIDES).await {
        Ok(seen) => seen,
        Err(why) => return later(member, names, why).await,
    };
    if seen == *truth {
        return match goes_on(member.addr(), truth).await {
            Ok(()) => Ok(Verdict::Served),
            Err(why) => later(member, names, why).await,
        };
    }
    if without_the_last(truth, &seen) {
        return Ok(Verdict::Cut);
    }
    let difference = difference(truth, &seen);
    Err(member.failure(format!("serves something else: {difference}")))
}

/// It started, but did not answer everything: right if it says where the damage is, and does not end as if all were well.
async fn later(member: &mut Member, names: &[String], why: String) -> Result<Verdict, Failure> {
    let deadline = Instant::now() + SPEAKS;
    while Instant::now() < deadline {
        let ended_well = member.exited().is_some_and(|status| status.success());
        if !ended_well && names_a_place(&member.said(), names) {
            return Ok(Verdict::RefusedLater);
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Err(member.failure(format!(
        "serves, but {why}, and does not say where the damage is"
    )))
}

/// True when it serves, false when it has refused as it should.
async fn decided(member: &mut Member, names: &[String]) -> Result<bool, Failure> {
    let deadline = Instant::now() + DECIDES;
    loop {
        if let Some(status) = member.exited() {
            if status.success() {
                return Err(member.failure("ended with success instead of serving or refusing"));
            }
            let said = member.said();
            return if names_a_place(&said, names) {
                Ok(false)
            } else {
                Err(member.failure(format!("refused ({status}) without the file and offset")))
            };
        }
        if answers(member.addr()).await.is_ok() {
            return Ok(true);
        }
        if Instant::now() > deadline {
            return Err(member.failure(format!("neither serves nor refuses within {DECIDES:?}")));
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// A line that says which file of the directory, and where in it.
fn names_a_place(said: &str, names: &[String]) -> bool {
    said.lines().any(|line| {
        let offset = line
            .split_once("offset ")
            .is_some_and(|(_, n)| n.starts_with(|c: char| c.is_ascii_digit()));
        offset && names.iter().any(|name| line.contains(name.as_str()))
    })
}

/// A member that serves also takes writes, at the next revision.
async fn goes_on(addr: &str, truth: &Picture) -> Result<(), String> {
    let channel = connect(addr).await.map_err(|e| e.to_string())?;
    let put = PutRequest {
        key: "after".into(),
        ..PutRequest::default()
    };
    let answer = kv(channel).put(put).await.map_err(|e| e.to_string())?;
    let at = revision(&answer.into_inner().header);
    if at == truth.revision + 1 {
        return Ok(());
    }
    Err(format!(
        "it writes at revision {at} after {}",
        truth.revision
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_file_of_the_directory_and_an_offset_in_it() {
        let names = ["0000000000000001.wal".to_owned(), "identity".to_owned()];
        let named = |said: &str| names_a_place(said, &names);
        assert!(named(
            "x\nthe log is corrupt: d/0000000000000001.wal at offset 64: checksum\n"
        ));
        assert!(named(
            "data directory d: identity is damaged (from offset 0 on)"
        ));
        assert!(!named(
            "the log is corrupt: d/0000000000000001.wal: checksum"
        ));
        assert!(!named("corrupt at offset 64"));
        assert!(!named("d/0000000000000001.wal\nat offset 64"));
    }
}
