//! Faults of the network: who hears whom, and what each end of a connection believes.

use std::time::Duration;

use barque_store_env::sim::{self, Link, NodeId};

use super::{Fault, Kind, MS, Step};
use crate::journal::HARNESS;

impl Fault {
    pub(super) async fn network(&self) -> Step {
        // The others may have left.
        if self.cluster.members().len() < 2 {
            return Ok(());
        }
        match self.kind {
            Kind::Isolate => {
                let node = self.victim();
                self.cut(&self.both_ways(&[node])).await
            }
            Kind::OneWay => self.one_way().await,
            Kind::Partial => self.partial().await,
            Kind::Split => {
                let mut side = self.cluster.others(self.victim());
                side.truncate(side.len() / 2);
                self.cut(&self.both_ways(&side)).await
            }
            Kind::BadNetwork => self.bad_network().await,
            Kind::SlowLink => self.slow_link().await,
            Kind::NoAnswer => self.no_answer().await,
            _ => self.connections(),
        }
    }

    /// Both directions between each of these and each of the others.
    fn both_ways(&self, side: &[NodeId]) -> Vec<(NodeId, NodeId)> {
        let mut cut = Vec::new();
        for a in side {
            let others = self.cluster.members();
            for b in others.into_iter().filter(|b| !side.contains(b)) {
                cut.extend([(*a, b), (b, *a)]);
            }
        }
        cut
    }

    async fn cut(&self, cut: &[(NodeId, NodeId)]) -> Step {
        let names: Vec<String> = cut.iter().map(|(a, b)| format!("{a}→{b}")).collect();
        self.fires(HARNESS, format!("cut: {}", names.join(" ")))?;
        for (from, to) in cut {
            sim::partition_one_way(*from, *to);
        }
        self.a_while().await?;
        self.say(HARNESS, format!("healed: {}", names.join(" ")))?;
        for (from, to) in cut {
            sim::heal(*from, *to);
        }
        Ok(())
    }

    /// A member that can only send, or only hear, or a single direction of a single link.
    async fn one_way(&self) -> Step {
        let node = self.victim();
        let rest = self.cluster.others(node);
        let cut: Vec<(NodeId, NodeId)> = match sim::below(4) {
            0 => rest.iter().map(|other| (node, *other)).collect(),
            1 => rest.iter().map(|other| (*other, node)).collect(),
            2 => vec![(node, rest[0])],
            _ => vec![(rest[0], node), (node, rest[rest.len() - 1])],
        };
        self.cut(&cut).await
    }

    /// Two that do not hear each other, though all others hear both; in a larger cluster a ring now and then.
    async fn partial(&self) -> Step {
        let node = self.victim();
        let rest = self.cluster.others(node);
        let mut cut = vec![(node, rest[0]), (rest[0], node)];
        if rest.len() > 2 && sim::chance(0.5) {
            // Each hears only its neighbours.
            let ring = self.cluster.members();
            cut.clear();
            for (i, a) in ring.iter().enumerate() {
                for (k, b) in ring.iter().enumerate() {
                    let apart = i.abs_diff(k).min(ring.len() - i.abs_diff(k));
                    if apart > 1 {
                        cut.push((*a, *b));
                    }
                }
            }
        }
        self.cut(&cut).await
    }

    async fn bad_network(&self) -> Step {
        let worst = [5, 50, 300][sim::below(3) as usize] * MS;
        let link = Link {
            delay: (Duration::ZERO, worst),
            loss: [0.0, 0.01, 0.1][sim::below(3) as usize],
            reset: [0.0, 0.001, 0.01][sim::below(3) as usize],
            rate: 0,
        };
        self.fires(HARNESS, format!("bad network: {link:?}"))?;
        sim::set_default_link(link);
        self.wait(500 * MS, 4_000 * MS).await?;
        self.say(HARNESS, "good network")?;
        sim::set_default_link(Link::default());
        Ok(())
    }

    async fn slow_link(&self) -> Step {
        let node = self.victim();
        let Some(other) = self.cluster.others(node).pop() else {
            return Ok(());
        };
        let link = Link {
            rate: [4_000, 30_000, 300_000][sim::below(3) as usize],
            ..Link::default()
        };
        self.fires(node, format!("sends {other} {} bytes a second", link.rate))?;
        sim::set_link(node, other, link);
        self.wait(500 * MS, 4_000 * MS).await?;
        self.say(node, format!("sends {other} as fast as before"))?;
        sim::set_link(node, other, Link::default());
        Ok(())
    }

    /// What is sent arrives and is carried out, its answer does not; then the connections break.
    async fn no_answer(&self) -> Step {
        let node = self.victim();
        let Some(other) = self.cluster.others(node).pop() else {
            return Ok(());
        };
        self.fires(node, format!("hears no answer of {other}"))?;
        sim::partition_one_way(other, node);
        let lease = self.cluster.plan.lease();
        let waited = self.wait(Duration::ZERO, lease / 2).await;
        sim::break_connections(node, other);
        sim::heal(other, node);
        waited
    }

    fn connections(&self) -> Step {
        let node = self.victim();
        let Some(other) = self.cluster.others(node).pop() else {
            return Ok(());
        };
        match self.kind {
            Kind::BlackConnections => {
                self.fires(
                    node,
                    format!("and {other} believe in connections that are dead"),
                )?;
                sim::blacken_connections(node, other);
            }
            Kind::HalfOpen => {
                self.fires(
                    node,
                    format!("forgets its connections with {other}, which does not"),
                )?;
                sim::forget_connections(node, other);
            }
            _ => {
                self.fires(node, format!("loses its connections with {other}"))?;
                sim::break_connections(node, other);
            }
        }
        Ok(())
    }
}
