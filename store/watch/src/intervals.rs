//! Which ranges hold a key: an AVL tree of distinct ranges, each subtree knowing where its farthest range ends.
//! Promise: finding the k ranges that hold a key costs O(log n + k) for ranges that do not nest oddly, and depth stays
//! logarithmic whatever order clients choose to come in.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use bytes::Bytes;

use crate::lookup::Subscriber;

/// End of a range, excluded. `None` is beyond every key.
type End = Option<Bytes>;

fn by_end(a: &End, b: &End) -> Ordering {
    match (a, b) {
        (None, None) => Ordering::Equal,
        (None, Some(_)) => Ordering::Greater,
        (Some(_), None) => Ordering::Less,
        (Some(a), Some(b)) => a.cmp(b),
    }
}

fn before_end(key: &[u8], end: &End) -> bool {
    end.as_ref().is_none_or(|end| key < &end[..])
}

#[derive(Debug)]
struct Node {
    start: Bytes,
    end: End,
    /// Invariant: the farthest end in this subtree.
    max_end: End,
    /// Invariant: 1 + the higher child's; the children's differ by at most 1.
    height: u32,
    left: Tree,
    right: Tree,
    subscribers: BTreeSet<Subscriber>,
}
type Tree = Option<Box<Node>>;

#[derive(Debug, Default)]
pub struct Intervals {
    root: Tree,
}

impl Intervals {
    pub fn add(&mut self, start: &Bytes, end: &End, subscriber: Subscriber) {
        self.root = Some(insert(self.root.take(), start, end, subscriber));
    }
    pub fn remove(&mut self, start: &Bytes, end: &End, subscriber: Subscriber) {
        self.root = remove(self.root.take(), start, end, subscriber);
    }
    pub fn is_empty(&self) -> bool {
        self.root.is_none()
    }
    /// Calls `found` for every subscriber of every range that holds `key`.
    pub fn holding(&self, key: &[u8], found: &mut dyn FnMut(Subscriber)) {
        visit(&self.root, key, found);
    }
}

fn visit(tree: &Tree, key: &[u8], found: &mut dyn FnMut(Subscriber)) {
    let Some(node) = tree else { return };
    if !before_end(key, &node.max_end) {
        return;
    }
    visit(&node.left, key, found);
    if node.start <= key {
        if before_end(key, &node.end) {
            node.subscribers.iter().copied().for_each(&mut *found);
        }
        visit(&node.right, key, found);
    }
}

fn order(start: &Bytes, end: &End, node: &Node) -> Ordering {
    start.cmp(&node.start).then_with(|| by_end(end, &node.end))
}

fn insert(tree: Tree, start: &Bytes, end: &End, subscriber: Subscriber) -> Box<Node> {
    let Some(mut node) = tree else {
        return Box::new(Node {
            start: start.clone(),
            end: end.clone(),
            max_end: end.clone(),
            height: 1,
            left: None,
            right: None,
            subscribers: BTreeSet::from([subscriber]),
        });
    };
    match order(start, end, &node) {
        Ordering::Equal => {
            node.subscribers.insert(subscriber);
            return node;
        }
        Ordering::Less => node.left = Some(insert(node.left.take(), start, end, subscriber)),
        Ordering::Greater => node.right = Some(insert(node.right.take(), start, end, subscriber)),
    }
    balance(node)
}

fn remove(tree: Tree, start: &Bytes, end: &End, subscriber: Subscriber) -> Tree {
    let mut node = tree?;
    match order(start, end, &node) {
        Ordering::Less => node.left = remove(node.left.take(), start, end, subscriber),
        Ordering::Greater => node.right = remove(node.right.take(), start, end, subscriber),
        Ordering::Equal => {
            node.subscribers.remove(&subscriber);
            if node.subscribers.is_empty() {
                return match (node.left.take(), node.right.take()) {
                    (None, other) | (other, None) => other,
                    (left, Some(right)) => {
                        let (mut next, rest) = take_first(right);
                        next.left = left;
                        next.right = rest;
                        Some(balance(next))
                    }
                };
            }
        }
    }
    Some(balance(node))
}

fn take_first(mut node: Box<Node>) -> (Box<Node>, Tree) {
    match node.left.take() {
        None => {
            let rest = node.right.take();
            (node, rest)
        }
        Some(left) => {
            let (first, rest) = take_first(left);
            node.left = rest;
            (first, Some(balance(node)))
        }
    }
}

fn height(tree: &Tree) -> u32 {
    tree.as_ref().map_or(0, |node| node.height)
}

fn refresh(node: &mut Node) {
    node.height = 1 + height(&node.left).max(height(&node.right));
    let mut farthest = &node.end;
    for child in [&node.left, &node.right].into_iter().flatten() {
        if by_end(&child.max_end, farthest).is_gt() {
            farthest = &child.max_end;
        }
    }
    node.max_end = farthest.clone();
}

fn balance(mut node: Box<Node>) -> Box<Node> {
    let (left, right) = (height(&node.left), height(&node.right));
    if left > right + 1 {
        node.left = node.left.take().map(|child| {
            if height(&child.left) < height(&child.right) {
                rotate_left(child)
            } else {
                child
            }
        });
        node = rotate_right(node);
    } else if right > left + 1 {
        node.right = node.right.take().map(|child| {
            if height(&child.right) < height(&child.left) {
                rotate_right(child)
            } else {
                child
            }
        });
        node = rotate_left(node);
    }
    refresh(&mut node);
    node
}

fn rotate_left(mut node: Box<Node>) -> Box<Node> {
    let Some(mut top) = node.right.take() else {
        return node;
    };
    node.right = top.left.take();
    refresh(&mut node);
    top.left = Some(node);
    refresh(&mut top);
    top
}

fn rotate_right(mut node: Box<Node>) -> Box<Node> {
    let Some(mut top) = node.left.take() else {
        return node;
    };
    node.left = top.right.take();
    refresh(&mut node);
    top.right = Some(node);
    refresh(&mut top);
    top
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{StreamId, WatchId};

    fn check(tree: &Tree) -> (u32, Vec<(Bytes, End)>) {
        let Some(node) = tree else {
            return (0, Vec::new());
        };
        let (left, mut ranges) = check(&node.left);
        let (right, after) = check(&node.right);
        assert!(left.abs_diff(right) <= 1, "out of balance");
        assert_eq!(node.height, 1 + left.max(right), "wrong height");
        ranges.push((node.start.clone(), node.end.clone()));
        ranges.extend(after);
        let farthest = ranges.iter().map(|(_, end)| end.clone()).max_by(by_end);
        assert_eq!(Some(node.max_end.clone()), farthest, "wrong farthest end");
        (node.height, ranges)
    }

    #[test]
    fn finds_what_a_plain_list_finds() {
        let mut word = 3u64;
        let mut next = |n: u64| {
            word = word.wrapping_mul(6364136223846793005).wrapping_add(1);
            (word >> 33) % n
        };
        let mut tree = Intervals::default();
        let mut list: Vec<(Bytes, End, Subscriber)> = Vec::new();
        for step in 0..4_000 {
            if next(5) < 3 || list.is_empty() {
                let start = Bytes::from(vec![b'a' + next(20) as u8, next(3) as u8]);
                let end = match next(6) {
                    0 => None,
                    n => Some(Bytes::from(vec![start[0] + n as u8])),
                };
                let subscriber = Subscriber {
                    stream: StreamId(step),
                    watch: WatchId(0),
                };
                tree.add(&start, &end, subscriber);
                list.push((start, end, subscriber));
            } else {
                let (start, end, subscriber) = list.swap_remove(next(list.len() as u64) as usize);
                tree.remove(&start, &end, subscriber);
            }
            if step % 16 == 0 {
                check(&tree.root);
                let key = [b'a' + next(26) as u8, next(4) as u8];
                let mut found = Vec::new();
                tree.holding(&key, &mut |subscriber| found.push(subscriber));
                let mut expected: Vec<_> = list
                    .iter()
                    .filter(|(start, end, _)| start[..] <= key[..] && before_end(&key, end))
                    .map(|(_, _, subscriber)| *subscriber)
                    .collect();
                found.sort();
                expected.sort();
                assert_eq!(found, expected, "for key {key:?}");
            }
        }
        for (start, end, subscriber) in list.drain(..) {
            tree.remove(&start, &end, subscriber);
        }
        assert!(tree.is_empty(), "something stayed behind");
    }
}
