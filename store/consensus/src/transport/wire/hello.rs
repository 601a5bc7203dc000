//! Who a peer is: the handshake's bodies, and who is in the cluster, for one that does not know it yet.
//! Not here: who is let in (`serve`).

use prost::Message;

/// What bodies mean. A member refuses a peer whose range of versions does not meet its own.
pub const PROTOCOL: u32 = 1;
pub const PROTOCOL_OLDEST: u32 = 1;
/// Bits of optional abilities; unknown ones are ignored.
pub const FEATURES: u64 = crate::integrity::FEATURE | crate::forward::FEATURE;

/// What a connection is for, so that nothing big delays a heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum Lane {
    Unspecified = 0,
    /// Votes, heartbeats, transfers.
    Control = 1,
    /// One stream of appends.
    Append = 2,
    /// Forwarded commands and read indexes.
    Requests = 3,
    /// From somebody who does not know the cluster yet: who are its members?
    Join = 5,
    /// One state, from the member that connects to the one that accepts.
    Image = 4,
    /// One state, from the member that accepts to the one that connects, which cannot use its own.
    Fetch = 6,
}

#[derive(Clone, PartialEq, Message)]
pub struct Hello {
    #[prost(fixed64, tag = "1")]
    pub cluster_id: u64,
    #[prost(fixed64, tag = "2")]
    pub from: u64,
    #[prost(fixed64, tag = "3")]
    pub to: u64,
    #[prost(uint32, tag = "4")]
    pub protocol: u32,
    #[prost(uint32, tag = "5")]
    pub protocol_oldest: u32,
    #[prost(uint64, tag = "6")]
    pub features: u64,
    #[prost(enumeration = "Lane", tag = "7")]
    pub lane: i32,
    /// Of the program, for logs only.
    #[prost(string, tag = "8")]
    pub version: String,
    /// Of the sender's data directory.
    #[prost(fixed64, tag = "9")]
    pub incarnation: u64,
}
impl Hello {
    /// Of this program, without a word about whose.
    pub fn of_nobody(lane: Lane) -> Self {
        Hello {
            protocol: PROTOCOL,
            protocol_oldest: PROTOCOL_OLDEST,
            features: FEATURES,
            lane: lane as i32,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..Hello::default()
        }
    }
}
#[derive(Clone, PartialEq, Message)]
pub struct Welcome {
    /// The newest both speak.
    #[prost(uint32, tag = "1")]
    pub protocol: u32,
    #[prost(uint64, tag = "2")]
    pub features: u64,
    #[prost(string, tag = "3")]
    pub version: String,
    /// Of the sender's data directory.
    #[prost(fixed64, tag = "4")]
    pub incarnation: u64,
    /// The newest cluster version the sender's program can work in.
    #[prost(uint32, tag = "20")]
    pub newest_major: u32,
    #[prost(uint32, tag = "21")]
    pub newest_minor: u32,
}
#[derive(Clone, PartialEq, Message)]
pub struct Refused {
    #[prost(string, tag = "1")]
    pub reason: String,
    #[prost(enumeration = "Refusal", tag = "2")]
    pub code: i32,
}
/// Refusals that the refused member acts on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum Refusal {
    Unspecified = 0,
    /// Guard 5: its data directory is not the one the cluster knows; it must stop.
    Wiped = 1,
    /// It was removed from the cluster; it must stop.
    Removed = 2,
}
#[derive(Clone, PartialEq, Message)]
pub struct MembersBody {}
#[derive(Clone, PartialEq, Message)]
pub struct MembersReplyBody {
    #[prost(fixed64, tag = "1")]
    pub cluster_id: u64,
    #[prost(message, repeated, tag = "2")]
    pub members: Vec<MemberBody>,
}
#[derive(Clone, PartialEq, Message)]
pub struct MemberBody {
    #[prost(fixed64, tag = "1")]
    pub id: u64,
    #[prost(string, tag = "2")]
    pub name: String,
    #[prost(string, repeated, tag = "3")]
    pub peer_urls: Vec<String>,
    #[prost(bool, tag = "4")]
    pub learner: bool,
}
