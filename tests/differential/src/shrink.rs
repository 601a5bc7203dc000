//! Makes a list of steps that ends in a difference shorter, keeping the kind of the difference. Each trial is a fresh pair of
//! servers, so the number of trials is bounded.

use crate::limits::SHRINK_ATTEMPTS;
use crate::pair::Pair;
use crate::run::Found;
use crate::servers::Programs;
use crate::step::Step;

/// The shortest list found; `found`'s own when nothing can go, or when the difference does not come again.
pub async fn shrink(programs: &Programs, found: &Found) -> Result<Vec<Step>, String> {
    let (last, before) = found.prefix.split_last().expect("a difference has a step");
    let mut steps = before.to_vec();
    let mut chunk = steps.len().div_ceil(2).max(1);
    let mut attempts = 0;
    while !steps.is_empty() {
        let mut at = steps.len();
        // From the end: what came long before matters least often, but what came just before is cheap to try.
        while at > 0 {
            if attempts == SHRINK_ATTEMPTS {
                steps.push(last.clone());
                return Ok(steps);
            }
            attempts += 1;
            let from = at.saturating_sub(chunk);
            let mut fewer = steps.clone();
            fewer.drain(from..at);
            fewer.push(last.clone());
            if shows(programs, &fewer, &found.difference.kind).await? {
                fewer.pop();
                steps = fewer;
            }
            at = from.min(steps.len());
        }
        if chunk == 1 {
            break;
        }
        chunk = chunk.div_ceil(2);
    }
    steps.push(last.clone());
    Ok(steps)
}

async fn shows(programs: &Programs, steps: &[Step], kind: &str) -> Result<bool, String> {
    let mut pair = Pair::start(programs).await?;
    for step in steps {
        let (_, difference) = pair.step(step).await;
        if let Some(difference) = difference {
            return Ok(difference.kind == kind);
        }
    }
    Ok(false)
}
