//! The report: medians of the rounds, and how many times better or worse Barque is.

use std::fmt::Write;

use serde_json::{Value, json};

use crate::PutArgs;
use crate::cluster::Side;
use crate::rounds::{Round, Section};
use crate::setup::Bench;
use crate::table::{DEFAULT_FLAGS, median};

/// One figure of a round: its name, how it is read, and whether more is better.
struct Figure {
    name: &'static str,
    of: fn(&Round) -> f64,
    more_is_better: bool,
}

const FIGURES: [Figure; 4] = [
    Figure {
        name: "puts/s",
        of: |round| round.puts_per_second,
        more_is_better: true,
    },
    Figure {
        name: "p50 us",
        of: |round| round.p50_us,
        more_is_better: false,
    },
    Figure {
        name: "p99 us",
        of: |round| round.p99_us,
        more_is_better: false,
    },
    Figure {
        name: "server CPU us/put",
        of: |round| round.cpu_us_per_put,
        more_is_better: false,
    },
];

fn of(section: &Section, side: Side, figure: &Figure) -> f64 {
    let rounds = section.rounds.iter().filter(|round| round.side == side);
    median(rounds.map(figure.of).collect())
}

/// How many times better Barque is: above 1 is in its favour, whatever the figure.
fn advantage(section: &Section, figure: &Figure) -> f64 {
    let barque = of(section, Side::Barque, figure);
    let etcd = of(section, Side::Etcd, figure);
    if figure.more_is_better {
        barque / etcd
    } else {
        etcd / barque
    }
}

/// The least and the greatest advantage of a pair of neighbouring rounds: how far to trust the median.
fn spread(section: &Section, figure: &Figure) -> (f64, f64) {
    let side = |side| {
        let rounds = section
            .rounds
            .iter()
            .filter(move |round| round.side == side);
        rounds.map(figure.of)
    };
    let pairs = side(Side::Barque).zip(side(Side::Etcd));
    pairs
        .map(|(barque, etcd)| {
            if figure.more_is_better {
                barque / etcd
            } else {
                etcd / barque
            }
        })
        .fold((f64::INFINITY, 0.0), |(least, most), ratio| {
            (ratio.min(least), ratio.max(most))
        })
}

pub fn markdown(args: &PutArgs, bench: &Bench, sections: &[Section]) -> String {
    let programs = &bench.programs;
    let mut out = String::new();
    let mut line = |text: String| {
        writeln!(out, "{text}").expect("a String takes everything");
    };
    line(format!(
        "puts of {} B keys and {} B values, closed loop, one connection per client, over all members",
        args.key_bytes, args.value_bytes
    ));
    line(format!(
        "medians of {} alternating rounds of {} s, after {} s of warm-up each",
        args.rounds, args.seconds, args.warm_up
    ));
    line(format!("machine: {}", bench.machine));
    line(format!(
        "against each other: {} / {} ({DEFAULT_FLAGS}, both up all the time)\n",
        programs.barque_version, programs.etcd_version
    ));
    line("| members | clients | | barque | etcd | barque is | rounds |".into());
    line("|---:|---:|---|---:|---:|---:|---:|".into());
    for section in sections {
        for figure in &FIGURES {
            let (least, most) = spread(section, figure);
            line(format!(
                "| {} | {} | {} | {:.0} | {:.0} | {:.2}x | {least:.2}-{most:.2}x |",
                section.members,
                section.clients,
                figure.name,
                of(section, Side::Barque, figure),
                of(section, Side::Etcd, figure),
                advantage(section, figure)
            ));
        }
    }
    line(
        "\n\"barque is\" and its range over the rounds are above 1 where barque is better.".into(),
    );
    out
}

pub fn json(bench: &Bench, sections: &[Section]) -> String {
    let round = |round: &Round| {
        json!({
            "side": round.side.to_string(),
            "puts_per_second": round.puts_per_second,
            "p50_us": round.p50_us,
            "p99_us": round.p99_us,
            "cpu_us_per_put": round.cpu_us_per_put,
        })
    };
    let section = |section: &Section| {
        let ratios: serde_json::Map<String, Value> = FIGURES
            .iter()
            .map(|figure| (figure.name.to_owned(), advantage(section, figure).into()))
            .collect();
        json!({
            "members": section.members,
            "clients": section.clients,
            "barque_is_better_by": ratios,
            "rounds": section.rounds.iter().map(round).collect::<Vec<_>>(),
        })
    };
    let all = json!({
        "machine": bench.machine.to_string(),
        "barque": bench.programs.barque_version,
        "etcd": bench.programs.etcd_version,
        "sections": sections.iter().map(section).collect::<Vec<_>>(),
    });
    format!("{all:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_direction_of_ratios() {
        let round = |side, puts_per_second, p50_us| Round {
            side,
            puts_per_second,
            p50_us,
            p99_us: 2.0 * p50_us,
            cpu_us_per_put: 10.0,
        };
        let section = Section {
            members: 1,
            clients: 1,
            rounds: vec![
                round(Side::Barque, 3000.0, 100.0),
                round(Side::Etcd, 1000.0, 400.0),
                round(Side::Barque, 1.0, 1.0),
                round(Side::Etcd, 1.0, 1.0),
                round(Side::Barque, 4000.0, 200.0),
                round(Side::Etcd, 2000.0, 500.0),
            ],
        };
        assert_eq!(advantage(&section, &FIGURES[0]), 3.0);
        assert_eq!(advantage(&section, &FIGURES[1]), 4.0);
        assert_eq!(advantage(&section, &FIGURES[3]), 1.0);
        assert_eq!(spread(&section, &FIGURES[0]), (1.0, 3.0));
        assert_eq!(spread(&section, &FIGURES[1]), (1.0, 4.0));
    }
}
