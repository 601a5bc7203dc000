//! A range that is answered in pieces, beside the same one answered at once.

use std::collections::BTreeMap;

use super::persist::Engine;
use super::random::Generator;
use super::*;
use crate::{AtOnce, RangeResult, ReadError, Reading};

/// A state whose rows leave memory now and then, and what a range has been at each newest revision since it was asked for.
struct Scene {
    m: Member,
    engine: Engine,
    generator: Generator,
    dice: Dice,
    seed: u64,
}

impl Scene {
    fn new(seed: u64) -> Scene {
        let (mut m, engine) = (Member::new(), Engine::default());
        m.state.set_archive(engine.archive());
        m.state.set_cache_budget(seed % 3 * 40);
        Scene {
            m,
            engine,
            generator: Generator::new(seed),
            dice: Dice::new(seed + 1),
            seed,
        }
    }
    fn goes_on(&mut self) {
        let commands = self.generator.commands(&self.m.state);
        self.m.apply(commands);
        if self.dice.one_in(2) {
            self.engine.persist(&mut self.m.state);
            self.m.state.trim_cache(100);
        }
    }

    fn at_once(&mut self, range: &Range, expected: &Result<RangeResult, ReadError>) {
        let at_once = AtOnce {
            keys: self.dice.below(12) as usize,
            reads: self.dice.below(4) as usize,
        };
        let answer = match self.m.state.outline(range, at_once) {
            Ok(None) => return,
            Ok(Some(outline)) => outline.ready().or_else(|outline| {
                let read = outline.read(&*self.engine.archive())?;
                Ok(read.expect("nothing went meanwhile"))
            }),
            Err(error) => Err(error),
        };
        assert_eq!(answer, *expected, "seed {}: {range:?}", self.seed);
    }

    /// In pieces, while others write; true, when it had to be begun anew.
    fn in_pieces(&mut self, range: &Range) -> bool {
        let pinned = range.revision.filter(|at| !at.names_the_newest());
        let mut expected = BTreeMap::new();
        let mut anew = false;
        loop {
            let now = self.m.state.range(range);
            let at = self.m.state.revision();
            expected.insert(at, now.clone());
            let mut run = match self.m.state.range_begin(range) {
                Ok(run) => run,
                Err(error) => {
                    assert_eq!(Err(error), now, "seed {}: {range:?}", self.seed);
                    return anew;
                }
            };
            let answer = self.pieces(range, &mut run, &mut expected);
            let (told, answer) = match answer {
                Ok(Reading::Done(result)) => (run.revision(), Ok(result)),
                // The compaction came first.
                Err(error) if pinned.is_some() => {
                    assert_eq!(error, Refusal::Compacted.into());
                    assert!(pinned < Some(self.m.state.compact_revision()));
                    return true;
                }
                Ok(_) => {
                    anew = true;
                    continue;
                }
                Err(error) => (run.revision(), Err(error)),
            };
            assert_eq!(
                answer, expected[&told],
                "seed {} at {told:?}: {range:?}",
                self.seed
            );
            return anew || told != at;
        }
    }

    fn pieces(
        &mut self,
        range: &Range,
        run: &mut crate::RangeRun,
        expected: &mut BTreeMap<Revision, Result<RangeResult, ReadError>>,
    ) -> Result<Reading, ReadError> {
        loop {
            let keys = 1 + self.dice.below(4) as usize;
            if self.m.state.range_on(run, keys)? {
                break;
            }
            if self.dice.one_in(3) {
                self.goes_on();
                expected.insert(self.m.state.revision(), self.m.state.range(range));
            }
        }
        loop {
            let archive = self.engine.archive();
            match run.read_on(&*archive, self.dice.below(3) as usize)? {
                Reading::Unfinished => {}
                read => return Ok(read),
            }
            if self.dice.one_in(3) {
                self.goes_on();
            }
        }
    }
}

#[test]
fn pieces_give_what_one_hold_of_the_state_gives() {
    let (mut plain, mut anew) = (0, 0);
    for seed in 0..400 {
        let mut scene = Scene::new(seed);
        for _ in 0..40 {
            scene.goes_on();
            let range = scene.generator.range(&scene.m.state);
            let expected = scene.m.state.range(&range);
            scene.at_once(&range, &expected);
            match scene.in_pieces(&range) {
                true => anew += 1,
                false => plain += 1,
            }
        }
    }
    assert!(plain > 10_000 && anew > 50, "{plain} plain, {anew} anew");
}
