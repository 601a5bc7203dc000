//! Alarms ⇄ their messages. The numbers are part of the format: never reused.

use super::WireError;
use super::pb;
use crate::alarms::{Alarm, AlarmCause, AlarmKind};
use crate::types::MemberId;

pub fn alarm_to_pb(alarm: &Alarm) -> pb::Alarm {
    pb::Alarm {
        kind: kind_code(alarm.kind),
        member: alarm.member.0,
        cause: cause_code(alarm.cause),
    }
}

pub fn alarm_from_pb(alarm: pb::Alarm) -> Result<Alarm, WireError> {
    Ok(Alarm {
        kind: kind_from(alarm.kind)?,
        member: MemberId(alarm.member),
        cause: cause_from(alarm.cause)?,
    })
}

pub fn kind_code(kind: AlarmKind) -> u32 {
    match kind {
        AlarmKind::NoSpace => 0,
        AlarmKind::Corrupt => 1,
    }
}

pub fn kind_from(code: u32) -> Result<AlarmKind, WireError> {
    match code {
        0 => Ok(AlarmKind::NoSpace),
        1 => Ok(AlarmKind::Corrupt),
        other => Err(WireError::malformed(format!("alarm of kind {other}"))),
    }
}

pub fn cause_code(cause: AlarmCause) -> u32 {
    match cause {
        AlarmCause::Operator => 1,
        AlarmCause::Quota => 2,
        AlarmCause::Disk => 3,
        AlarmCause::Fenced => 4,
        AlarmCause::Undecided => 5,
    }
}

pub fn cause_from(code: u32) -> Result<AlarmCause, WireError> {
    match code {
        1 => Ok(AlarmCause::Operator),
        2 => Ok(AlarmCause::Quota),
        3 => Ok(AlarmCause::Disk),
        4 => Ok(AlarmCause::Fenced),
        5 => Ok(AlarmCause::Undecided),
        other => Err(WireError::malformed(format!("alarm with cause {other}"))),
    }
}
