//! The protobuf messages of FORMAT.md, by hand: `Bytes` fields share buffers both ways.

use bytes::Bytes;
use prost::{Message, Oneof};

#[derive(Clone, PartialEq, Message)]
pub struct Entry {
    #[prost(uint64, tag = "1")]
    pub time: u64,
    #[prost(message, repeated, tag = "2")]
    pub commands: Vec<Command>,
    #[prost(message, repeated, tag = "3")]
    pub origins: Vec<Origin>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Origin {
    #[prost(uint32, tag = "1")]
    pub at: u32,
    #[prost(uint32, tag = "2")]
    pub count: u32,
    #[prost(fixed64, tag = "3")]
    pub member: u64,
    #[prost(fixed64, tag = "4")]
    pub boot: u64,
    #[prost(uint64, tag = "5")]
    pub first: u64,
    #[prost(uint64, tag = "6")]
    pub open: u64,
}

#[derive(Clone, PartialEq, Message)]
pub struct Commands {
    #[prost(message, repeated, tag = "1")]
    pub commands: Vec<Command>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Command {
    #[prost(
        oneof = "CommandKind",
        tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 40, 41"
    )]
    pub kind: Option<CommandKind>,
}

#[derive(Clone, PartialEq, Oneof)]
pub enum CommandKind {
    #[prost(message, tag = "1")]
    Put(Put),
    #[prost(message, tag = "2")]
    DeleteRange(DeleteRange),
    #[prost(message, tag = "3")]
    Txn(Txn),
    /// The revision.
    #[prost(uint64, tag = "4")]
    Compact(u64),
    #[prost(message, tag = "5")]
    LeaseGrant(LeaseGrant),
    /// The id.
    #[prost(sfixed64, tag = "6")]
    LeaseRevoke(i64),
    #[prost(message, tag = "7")]
    LeaseKeepAlive(LeaseKeepAlive),
    #[prost(message, tag = "8")]
    LeaseExpire(LeaseExpire),
    #[prost(message, tag = "9")]
    MemberPublish(MemberPublish),
    #[prost(message, tag = "10")]
    AlarmRaise(Alarm),
    #[prost(message, tag = "11")]
    AlarmClear(Alarm),
    #[prost(message, tag = "12")]
    Members(MemberChange),
    #[prost(message, tag = "40")]
    IntegrityMark(Nothing),
    #[prost(message, tag = "41")]
    ClusterVersionSet(Version),
}

/// One of them.
#[derive(Clone, PartialEq, Message)]
pub struct MemberChange {
    #[prost(oneof = "MemberChangeKind", tags = "1, 2, 3, 4, 5, 6")]
    pub kind: Option<MemberChangeKind>,
}

#[derive(Clone, PartialEq, Oneof)]
pub enum MemberChangeKind {
    #[prost(message, tag = "1")]
    Found(Members),
    #[prost(message, tag = "2")]
    Add(Member),
    /// The id.
    #[prost(fixed64, tag = "3")]
    Remove(u64),
    #[prost(message, tag = "4")]
    Update(Member),
    /// The id.
    #[prost(fixed64, tag = "5")]
    Promote(u64),
    #[prost(message, tag = "6")]
    Only(Only),
}

#[derive(Clone, PartialEq, Message)]
pub struct Only {
    #[prost(fixed64, tag = "1")]
    pub id: u64,
    #[prost(string, repeated, tag = "2")]
    pub peer_urls: Vec<String>,
    #[prost(fixed64, repeated, tag = "3")]
    pub others: Vec<u64>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Members {
    #[prost(message, repeated, tag = "1")]
    pub members: Vec<Member>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Member {
    #[prost(fixed64, tag = "1")]
    pub id: u64,
    #[prost(string, tag = "2")]
    pub name: String,
    #[prost(string, repeated, tag = "3")]
    pub peer_urls: Vec<String>,
    #[prost(string, repeated, tag = "4")]
    pub client_urls: Vec<String>,
    #[prost(bool, tag = "5")]
    pub learner: bool,
}

#[derive(Clone, PartialEq, Message)]
pub struct Version {
    #[prost(uint32, tag = "1")]
    pub major: u32,
    #[prost(uint32, tag = "2")]
    pub minor: u32,
}

/// Kind 0 NOSPACE, 1 CORRUPT; cause 1 operator, 2 quota, 3 disk, 4 fenced, 5 undecided, and 0 for any in a clear.
#[derive(Clone, PartialEq, Message)]
pub struct Alarm {
    #[prost(uint32, tag = "1")]
    pub kind: u32,
    #[prost(uint64, tag = "2")]
    pub member: u64,
    #[prost(uint32, tag = "3")]
    pub cause: u32,
}

#[derive(Clone, PartialEq, Message)]
pub struct Alarms {
    #[prost(message, repeated, tag = "1")]
    pub alarms: Vec<Alarm>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Put {
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    pub value: Bytes,
    #[prost(sfixed64, tag = "3")]
    pub lease: i64,
    #[prost(bool, tag = "4")]
    pub prev_kv: bool,
    #[prost(bool, tag = "5")]
    pub ignore_value: bool,
    #[prost(bool, tag = "6")]
    pub ignore_lease: bool,
}

#[derive(Clone, PartialEq, Message)]
pub struct DeleteRange {
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    pub end: Bytes,
    #[prost(bool, tag = "3")]
    pub prev_kv: bool,
}

#[derive(Clone, PartialEq, Message)]
pub struct Range {
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    pub end: Bytes,
    #[prost(uint64, tag = "3")]
    pub limit: u64,
    #[prost(uint64, optional, tag = "4")]
    pub revision: Option<u64>,
    #[prost(uint32, tag = "5")]
    pub sort_target: u32,
    #[prost(uint32, tag = "6")]
    pub sort_order: u32,
    #[prost(bool, tag = "7")]
    pub keys_only: bool,
    #[prost(bool, tag = "8")]
    pub count_only: bool,
    #[prost(uint64, tag = "9")]
    pub min_mod_revision: u64,
    #[prost(uint64, tag = "10")]
    pub max_mod_revision: u64,
    #[prost(uint64, tag = "11")]
    pub min_create_revision: u64,
    #[prost(uint64, tag = "12")]
    pub max_create_revision: u64,
}

#[derive(Clone, PartialEq, Message)]
pub struct Txn {
    #[prost(message, repeated, tag = "1")]
    pub compare: Vec<Compare>,
    #[prost(message, repeated, tag = "2")]
    pub success: Vec<TxnOp>,
    #[prost(message, repeated, tag = "3")]
    pub failure: Vec<TxnOp>,
}

#[derive(Clone, PartialEq, Message)]
pub struct TxnOp {
    #[prost(oneof = "TxnOpKind", tags = "1, 2, 3, 4")]
    pub kind: Option<TxnOpKind>,
}

#[derive(Clone, PartialEq, Oneof)]
pub enum TxnOpKind {
    #[prost(message, tag = "1")]
    Range(Range),
    #[prost(message, tag = "2")]
    Put(Put),
    #[prost(message, tag = "3")]
    DeleteRange(DeleteRange),
    #[prost(message, tag = "4")]
    Txn(Txn),
}

#[derive(Clone, PartialEq, Message)]
pub struct Compare {
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    pub end: Bytes,
    #[prost(uint32, tag = "3")]
    pub result: u32,
    #[prost(oneof = "CompareTarget", tags = "4, 5, 6, 7, 8")]
    pub target: Option<CompareTarget>,
}

#[derive(Clone, PartialEq, Oneof)]
pub enum CompareTarget {
    #[prost(int64, tag = "4")]
    Version(i64),
    #[prost(int64, tag = "5")]
    Create(i64),
    #[prost(int64, tag = "6")]
    Mod(i64),
    #[prost(bytes = "bytes", tag = "7")]
    Value(Bytes),
    #[prost(sfixed64, tag = "8")]
    Lease(i64),
}

#[derive(Clone, PartialEq, Message)]
pub struct LeaseGrant {
    #[prost(sfixed64, tag = "1")]
    pub id: i64,
    #[prost(uint64, tag = "2")]
    pub ttl_s: u64,
}

#[derive(Clone, PartialEq, Message)]
pub struct LeaseKeepAlive {
    #[prost(sfixed64, repeated, tag = "1")]
    pub ids: Vec<i64>,
}

#[derive(Clone, PartialEq, Message)]
pub struct LeaseExpire {
    #[prost(sfixed64, tag = "1")]
    pub id: i64,
    #[prost(uint64, tag = "2")]
    pub deadline_seen: u64,
}

#[derive(Clone, PartialEq, Message)]
pub struct MemberPublish {
    #[prost(fixed64, tag = "1")]
    pub member: u64,
    #[prost(string, tag = "2")]
    pub name: String,
    #[prost(string, repeated, tag = "3")]
    pub client_urls: Vec<String>,
    #[prost(fixed64, tag = "4")]
    pub incarnation: u64,
}

#[derive(Clone, PartialEq, Message)]
pub struct Outcomes {
    #[prost(message, repeated, tag = "1")]
    pub outcomes: Vec<Outcome>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Outcome {
    #[prost(uint64, tag = "1")]
    pub revision: u64,
    #[prost(
        oneof = "Result",
        tags = "2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 40, 41"
    )]
    pub result: Option<Result>,
    /// Beside the code of the refusal that tells of them.
    #[prost(message, optional, tag = "42")]
    pub too_old: Option<TooOld>,
}

#[derive(Clone, PartialEq, Message)]
pub struct TooOld {
    #[prost(message, optional, tag = "1")]
    pub needs: Option<Version>,
    #[prost(message, repeated, tag = "2")]
    pub members: Vec<OldMember>,
}

#[derive(Clone, PartialEq, Message)]
pub struct OldMember {
    #[prost(fixed64, tag = "1")]
    pub id: u64,
    #[prost(string, tag = "2")]
    pub name: String,
    #[prost(message, optional, tag = "3")]
    pub newest: Option<Version>,
}

#[derive(Clone, PartialEq, Oneof)]
pub enum Result {
    /// Code of a refusal.
    #[prost(uint32, tag = "2")]
    Refused(u32),
    #[prost(message, tag = "3")]
    Put(PutResult),
    #[prost(message, tag = "4")]
    DeleteRange(DeleteRangeResult),
    #[prost(message, tag = "5")]
    Txn(TxnResult),
    #[prost(message, tag = "6")]
    Compacted(Nothing),
    #[prost(message, tag = "7")]
    LeaseGranted(LeaseGrant),
    #[prost(message, tag = "8")]
    LeaseRevoked(Nothing),
    #[prost(message, tag = "9")]
    LeaseRenewed(LeaseRenewed),
    /// Whether it was removed.
    #[prost(bool, tag = "10")]
    LeaseExpired(bool),
    #[prost(message, tag = "11")]
    Published(Nothing),
    #[prost(message, tag = "12")]
    Alarms(Alarms),
    #[prost(message, tag = "13")]
    Members(Members),
    #[prost(message, tag = "40")]
    Marked(Nothing),
    #[prost(message, tag = "41")]
    ClusterVersion(Version),
}

#[derive(Clone, PartialEq, Message)]
pub struct Nothing {}

#[derive(Clone, PartialEq, Message)]
pub struct KeyValue {
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    #[prost(uint64, tag = "2")]
    pub create_revision: u64,
    #[prost(uint64, tag = "3")]
    pub mod_revision: u64,
    #[prost(uint64, tag = "4")]
    pub version: u64,
    #[prost(bytes = "bytes", tag = "5")]
    pub value: Bytes,
    #[prost(sfixed64, tag = "6")]
    pub lease: i64,
}

#[derive(Clone, PartialEq, Message)]
pub struct RangeResult {
    #[prost(message, repeated, tag = "1")]
    pub kvs: Vec<KeyValue>,
    #[prost(bool, tag = "2")]
    pub more: bool,
    #[prost(uint64, tag = "3")]
    pub count: u64,
}

#[derive(Clone, PartialEq, Message)]
pub struct PutResult {
    #[prost(message, optional, tag = "1")]
    pub prev: Option<KeyValue>,
}

#[derive(Clone, PartialEq, Message)]
pub struct DeleteRangeResult {
    #[prost(uint64, tag = "1")]
    pub deleted: u64,
    #[prost(message, repeated, tag = "2")]
    pub prev: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, Message)]
pub struct TxnResult {
    #[prost(bool, tag = "1")]
    pub succeeded: bool,
    #[prost(message, repeated, tag = "2")]
    pub results: Vec<OpResult>,
    #[prost(uint64, tag = "3")]
    pub revision: u64,
}

#[derive(Clone, PartialEq, Message)]
pub struct OpResult {
    #[prost(oneof = "OpResultKind", tags = "1, 2, 3, 4")]
    pub kind: Option<OpResultKind>,
}

#[derive(Clone, PartialEq, Oneof)]
pub enum OpResultKind {
    #[prost(message, tag = "1")]
    Range(RangeResult),
    #[prost(message, tag = "2")]
    Put(PutResult),
    #[prost(message, tag = "3")]
    DeleteRange(DeleteRangeResult),
    #[prost(message, tag = "4")]
    Txn(TxnResult),
}

#[derive(Clone, PartialEq, Message)]
pub struct LeaseRenewed {
    /// TTL + 1; 0 where there is no such lease.
    #[prost(uint64, repeated, tag = "1")]
    pub ttls_plus_one: Vec<u64>,
}
