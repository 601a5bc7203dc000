//! Bankers: they move money between accounts in transactions guarded by revisions, through any member. At every revision, on
//! every member, however stale, the whole is the same sum.

use barque_store_env::sim;
use barque_store_state::{
    Answer, Command, Compare, CompareResult, CompareTarget, KeyRange, OpResult, Put, Range,
    RangeResult, Txn, TxnOp,
};

use super::{Desk, if_succeeded, of_prefix, patience};

pub const PREFIX: &str = "bank/";
const ACCOUNTS: u64 = 5;
/// What is in an account that nobody has used yet.
const OPENING: i64 = 100;

fn key(account: u64) -> String {
    format!("{PREFIX}{account}")
}

/// Balance and modification revision of each account.
type Book = Vec<(i64, u64)>;

fn book(result: &RangeResult) -> Book {
    let mut book = vec![(OPENING, 0); ACCOUNTS as usize];
    for kv in &result.kvs {
        let text = |bytes| std::str::from_utf8(bytes).expect("bankers write text");
        let account = text(&kv.key).trim_start_matches(PREFIX).parse::<usize>();
        let balance = text(&kv.value).parse().expect("bankers write numbers");
        book[account.expect("bankers number accounts")] = (balance, kv.mod_revision.0);
    }
    book
}

fn audit(desk: &Desk, node: sim::NodeId, revision: u64, book: &Book) {
    let sum: i64 = book.iter().map(|(balance, _)| balance).sum();
    if sum != OPENING * ACCOUNTS as i64 {
        desk.cluster.journal.violation(format!(
            "{node} shows {sum} in all accounts at revision {revision}: {book:?}"
        ));
    }
}

fn transfer(book: &Book, from: u64, to: u64, amount: i64) -> Txn {
    let unchanged = |account: u64| Compare {
        range: KeyRange::point(key(account).into()),
        result: CompareResult::Equal,
        target: CompareTarget::Mod(book[account as usize].1 as i64),
    };
    let set = |account: u64, change: i64| {
        TxnOp::Put(Put {
            key: key(account).into(),
            value: (book[account as usize].0 + change).to_string().into(),
            ..Put::default()
        })
    };
    let moves = vec![set(from, -amount), set(to, amount)];
    // One in three is nested: the same, one level down.
    let success = if sim::below(3) == 0 {
        vec![TxnOp::Txn(Txn {
            success: moves,
            ..Txn::default()
        })]
    } else {
        moves
    };
    Txn {
        compare: vec![unchanged(from), unchanged(to)],
        success,
        failure: vec![TxnOp::Range(of_prefix(PREFIX))],
    }
}

pub async fn run(desk: Desk) {
    let mut turn = desk.client as usize;
    while !desk.cluster.is_calm() {
        desk.pause().await;
        let node = desk.next_member(&mut turn);
        let Some(book) = look(&desk, node).await else {
            continue;
        };
        let from = sim::below(ACCOUNTS);
        let to = (from + 1 + sim::below(ACCOUNTS - 1)) % ACCOUNTS;
        let txn = transfer(&book, from, to, 1 + sim::below(20) as i64);
        let node = desk.next_member(&mut turn);
        let answer = desk
            .propose(node, patience(), Command::Txn(txn), if_succeeded)
            .await;
        let Ok((revision, Answer::Txn(txn))) = answer else {
            continue;
        };
        desk.cluster
            .journal
            .count(|c| c.transfers += u64::from(txn.succeeded));
        if let Some(OpResult::Range(result)) = txn.results.first() {
            audit(&desk, node, revision.0, &self::book(result));
        }
    }
}

/// The book: linearizable, or whatever the member has.
async fn look(desk: &Desk, node: sim::NodeId) -> Option<Book> {
    let range: Range = of_prefix(PREFIX);
    let (revision, result) = if sim::chance(0.5) {
        desk.read(node, patience(), range).await?
    } else {
        let stale = desk
            .cluster
            .request(node, patience(), async move |store, _| store.range(&range));
        stale.await.ok()?
    };
    let book = book(&result.ok()?);
    audit(desk, node, revision.0, &book);
    Some(book)
}
