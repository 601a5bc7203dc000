//! etcd's KV service. Reads are linearizable unless the client says otherwise; writes go through the log.

use std::rc::Rc;

use barque_proto::etcdserverpb as pb;
use barque_store_env::Env;
use barque_store_node::Answered;
use barque_store_rpc::{Code, Framed, Reply, Status};
use barque_store_state::{Answer, Command, Range, Refusal, Revision, State, Txn};
use bytes::Bytes;
use prost::Message;

use crate::convert;
use crate::core::Core;
use crate::encode;
use crate::limits::ENVELOPE_BYTES;
use crate::status::{REQUEST_TOO_LARGE, invalid, malformed, refused};

pub(crate) fn range<E: Env>(core: &Rc<Core<E>>, request: Bytes, reply: Reply) {
    let serializable_and_range = pb::RangeRequest::decode(request)
        .map_err(|error| malformed(&error))
        .and_then(|request| {
            let serializable = request.serializable;
            Ok((serializable, convert::range(request)?))
        });
    match serializable_and_range {
        Err(status) => reply.err(status),
        Ok((true, range)) => read(core, &range, reply),
        Ok((false, range)) => {
            let at = core.clone();
            core.reads.linearizable(move |ready| match ready {
                Ok(()) => read(&at, &range, reply),
                Err(status) => reply.err(status),
            });
        }
    }
}

fn read<E: Env>(core: &Rc<Core<E>>, range: &Range, mut reply: Reply) {
    match core.store.range_of_few(range) {
        Ok(answered) => reply.done(told(core, answered)),
        // Other calls of this core must not wait for all of its keys.
        Err(large) => {
            let core = core.clone();
            barque_store_rpc::spawn_local(async move {
                let range = core.large.range(*large);
                match reply.while_wanted(range).await {
                    Some(Ok(answered)) => reply.done(told(&core, answered)),
                    Some(Err(busy)) => reply.err(busy),
                    None => reply.err(Status::new(Code::Canceled, "context canceled")),
                }
            });
        }
    }
}

fn told<E: Env>(core: &Core<E>, (revision, result): Answered) -> Result<Framed, Status> {
    let result = result.map_err(|refusal| refused(&refusal))?;
    Ok(encode::range(&core.header(revision), &result))
}

/// As etcd: asked last, when nothing else is wrong with the request.
fn size<E: Env>(core: &Core<E>, bytes: usize) -> Result<(), Status> {
    if bytes.saturating_add(ENVELOPE_BYTES) > core.rules.max_request_bytes {
        return Err(invalid(REQUEST_TOO_LARGE));
    }
    Ok(())
}

/// Decodes a write, checks it, and has it carried out.
fn write<E: Env, M: Message + Default>(
    core: &Core<E>,
    request: Bytes,
    reply: Reply,
    command: impl FnOnce(M) -> Result<Command, Status>,
) {
    let bytes = request.len();
    let command = M::decode(request)
        .map_err(|error| malformed(&error))
        .and_then(command)
        .and_then(|command| match State::check(&command) {
            Ok(()) => Ok(command),
            Err(refusal) => Err(refused(&refusal)),
        })
        .and_then(|command| {
            size(core, bytes)?;
            Ok(command)
        });
    match command {
        Ok(command) => core.proposals.propose(command, reply),
        Err(status) => reply.err(status),
    }
}

pub(crate) fn put<E: Env>(core: &Core<E>, request: Bytes, reply: Reply) {
    write(core, request, reply, |request| {
        Ok(Command::Put(convert::put(request)?))
    });
}

pub(crate) fn delete_range<E: Env>(core: &Core<E>, request: Bytes, reply: Reply) {
    write(core, request, reply, |request| {
        Ok(Command::DeleteRange(convert::delete_range(request)?))
    });
}

/// A transaction that only reads never becomes an entry.
pub(crate) fn txn<E: Env>(core: &Rc<Core<E>>, request: Bytes, reply: Reply) {
    let bytes = request.len();
    let serializable_and_txn = pb::TxnRequest::decode(request)
        .map_err(|error| malformed(&error))
        .and_then(|request| {
            let serializable = convert::is_serializable(&request);
            let txn = convert::txn(request)?;
            State::check_txn(&txn).map_err(|refusal| refused(&refusal))?;
            // Also one that only reads, which etcd does not bound: it is held and carried out like any other.
            size(core, bytes)?;
            Ok((serializable, txn))
        });
    match serializable_and_txn {
        Err(status) => reply.err(status),
        Ok((_, txn)) if !txn.is_read_only() => core.proposals.propose(Command::Txn(txn), reply),
        Ok((true, txn)) => reply.done(read_txn(core, &txn)),
        Ok((false, txn)) => {
            let at = core.clone();
            core.reads.linearizable(move |ready| {
                reply.done(ready.and_then(|()| read_txn(&at, &txn)));
            });
        }
    }
}

fn read_txn<E: Env>(core: &Core<E>, txn: &Txn) -> Result<Framed, Status> {
    let (revision, result) = core.store.read_txn(txn);
    let result = result.map_err(|refusal| refused(&refusal))?;
    encode::answer(&core.header(revision), &Answer::Txn(result))
        .ok_or_else(|| Status::new(Code::Internal, "a transaction without an answer"))
}

/// `physical` needs no waiting: space is given back continuously, and a compacted revision is unreadable at once.
pub(crate) fn compact<E: Env>(core: &Core<E>, request: Bytes, reply: Reply) {
    write(core, request, reply, |request: pb::CompactionRequest| {
        let revision = u64::try_from(request.revision).map_err(|_| refused(&Refusal::Compacted))?;
        Ok(Command::Compact {
            revision: Revision(revision),
        })
    });
}
