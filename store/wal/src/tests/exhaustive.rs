//! Every damage of small logs, on the simulated disk: each bit, each length, each subset of the last write's sectors.
//! A start finds all that was synced, or refuses and names file and offset.

use std::panic::AssertUnwindSafe;

use barque_store_env::sim::{self, NodeId, SimDisk, SimEnv};
use barque_store_env::{Disk, File, Open};
use futures::FutureExt;

use super::*;
use crate::codec::{Place, SECTOR, SegmentHeader};
use crate::scan::{Found, read_batch};

const DIR: &str = "/member/wal";

/// A closed log: names and bytes of its segments, oldest first.
#[derive(Clone)]
struct Image {
    files: Vec<(String, Vec<u8>)>,
    options: Options,
}

/// A batch of an image.
#[derive(Clone, Copy, Debug)]
struct Extent {
    file: usize,
    from: usize,
    to: usize,
}

/// Runs `check` on a machine of the simulator.
fn on_a_machine<F>(check: F)
where
    F: Future<Output = ()> + Send + 'static,
{
    sim::run(1, async {
        let node = NodeId(1);
        // A panic in a task must fail the test, and say what it said.
        let checked = AssertUnwindSafe(check).catch_unwind();
        if let Err(panic) = sim::spawn_on(node, "check", checked).await.unwrap() {
            std::panic::resume_unwind(panic);
        }
    });
}

fn disk() -> SimDisk {
    sim::disk(NodeId(1))
}

async fn start(options: Options) -> Result<(Wal<SimEnv>, Recovered), WalError> {
    Wal::<SimEnv>::open(disk(), Path::new(DIR), options).await
}

async fn put(wal: &Wal<SimEnv>, records: Vec<Record>) {
    let number = wal.append(records);
    wal.durable(number).await.unwrap();
}

/// A log that one append after the other wrote.
async fn written(options: Options, appends: &[Vec<Record>]) -> Image {
    clear().await;
    let (wal, _) = start(options).await.unwrap();
    for records in appends {
        put(&wal, records.clone()).await;
    }
    wal.close().await;
    let mut files = Vec::new();
    for name in disk().list(Path::new(DIR)).await.unwrap() {
        if segment::number(&name).is_some() {
            let path = Path::new(DIR).join(&name);
            let file = disk().open(&path, Open::Read).await.unwrap();
            let bytes = file.read_at(0, usize::MAX).await.unwrap();
            files.push((name, bytes.to_vec()));
        }
    }
    Image { files, options }
}

async fn clear() {
    if disk().exists(Path::new(DIR)).await.unwrap() {
        for name in disk().list(Path::new(DIR)).await.unwrap() {
            disk().remove(&Path::new(DIR).join(name)).await.unwrap();
        }
    }
}

impl Image {
    fn batches(&self) -> Vec<Extent> {
        let mut out = Vec::new();
        for (file, (_, bytes)) in self.files.iter().enumerate() {
            let header = SegmentHeader::decode(bytes).unwrap();
            let mut place = Place {
                log_id: header.log_id,
                segment: header.segment,
                offset: codec::SEGMENT_HEADER as u64,
            };
            while let Found::Batch(batch) = read_batch(bytes, place) {
                let from = place.offset as usize;
                let to = from + batch.bytes.len();
                out.push(Extent { file, from, to });
                place.offset = to as u64;
            }
        }
        out
    }

    /// Puts it on the disk and opens it.
    async fn open(&self) -> Result<(Wal<SimEnv>, Recovered), WalError> {
        clear().await;
        disk().create_dir_all(Path::new(DIR)).await.unwrap();
        for (name, bytes) in &self.files {
            let path = Path::new(DIR).join(name);
            let file = disk().open(&path, Open::CreateNew).await.unwrap();
            file.write_sync(0, bytes.clone().into()).await.unwrap();
        }
        start(self.options).await
    }

    async fn recovered(&self) -> Result<Recovered, WalError> {
        let (wal, recovered) = self.open().await?;
        wal.close().await;
        Ok(recovered)
    }

    /// The error must name the file and an offset at or before `at`.
    fn names(&self, error: &WalError, file: usize, at: usize) {
        let WalError::Corrupt {
            file: named,
            offset,
            ..
        } = error
        else {
            panic!("{error}");
        };
        assert_eq!(
            named.file_name().unwrap(),
            self.files[file].0.as_str(),
            "{error}"
        );
        assert!(*offset <= at as u64, "damage at {at}: {error}");
    }
}

fn payload(index: u64, len: usize) -> Record {
    let payload = (0..len)
        .map(|i| (i as u64 * 31 + index * 7) as u8)
        .collect::<Vec<_>>();
    Record::Entry {
        index,
        term: 1,
        payload: payload.into(),
    }
}

/// An entry whose payload holds whole sectors of zeros.
fn hollow(index: u64, len: usize) -> Record {
    let mut bytes = vec![0; len];
    bytes[len / 2] = 1;
    Record::Entry {
        index,
        term: 1,
        payload: bytes.into(),
    }
}

/// Batches that are small, larger than a sector, full of zeros, of all kinds of records, over several segments.
fn appends() -> Vec<Vec<Record>> {
    vec![
        vec![Record::Vote("v".into())],
        (1..4).map(|i| entry(i, 1)).collect(),
        vec![hollow(4, 1_200)],
        vec![Record::TruncateAfter { index: 3 }, payload(4, 30)],
        vec![payload(5, 700)],
        vec![
            Record::Purge { index: 2, term: 1 },
            Record::Committed { index: 4, term: 1 },
        ],
        vec![Record::Vote("w".into()), payload(6, 9)],
    ]
}

const SIZES: Options = Options {
    segment_bytes: 2_048,
    fsync: true,
};

#[test]
fn a_flipped_bit_costs_nothing_or_is_named() {
    on_a_machine(async {
        let good = written(SIZES, &appends()).await;
        let full = good.recovered().await.unwrap();
        let last = *good.batches().last().unwrap();
        assert!(last.file >= 1, "the log spans segments");
        let (mut refused, mut kept) = (0, 0);
        for (file, (name, bytes)) in good.files.iter().enumerate() {
            for bit in 0..bytes.len() * 8 {
                let mut bad = good.clone();
                bad.files[file].1[bit / 8] ^= 1 << (bit % 8);
                match bad.recovered().await {
                    Err(error) => {
                        bad.names(&error, file, bit / 8);
                        refused += 1;
                    }
                    Ok(recovered) => {
                        assert_eq!(recovered, full, "bit {bit} of {name}");
                        assert!(
                            (file, bit / 8) >= (last.file, last.to),
                            "bit {bit} of {name} is part of the log"
                        );
                        kept += 1;
                    }
                }
            }
        }
        assert!(
            refused > 15_000 && kept > 1_000,
            "{refused} refused, {kept} kept"
        );
    });
}

#[test]
fn a_file_that_was_shortened_is_named() {
    on_a_machine(async {
        let good = written(SIZES, &appends()).await;
        for file in 0..good.files.len() {
            for len in 0..good.files[file].1.len() {
                let mut bad = good.clone();
                bad.files[file].1.truncate(len);
                let error = bad.recovered().await.expect_err("bytes are missing");
                bad.names(&error, file, len);
            }
        }
    });
}

#[test]
fn a_write_cut_off_at_any_byte_costs_only_itself() {
    on_a_machine(async {
        let good = written(SIZES, &appends()).await;
        let batches = good.batches();
        let full = good.recovered().await.unwrap();
        let last_file = batches.last().unwrap().file;
        // Each batch was the last one once: its file ends after it, and later files are not there yet, or empty.
        for (at, batch) in batches.iter().enumerate() {
            let mut before = good.clone();
            before.files.truncate(batch.file + 1);
            before.files[batch.file].1[batch.to..].fill(0);
            let with = before.recovered().await.unwrap();
            before.files[batch.file].1[batch.from..].fill(0);
            // Without its first batch a segment that is not the first one was not in use.
            let without = before.recovered().await.unwrap();
            if at + 1 == batches.len() {
                assert_eq!(with, full);
            }
            for cut in batch.from..batch.to {
                let mut torn = good.clone();
                torn.files.truncate(batch.file + 1);
                torn.files[batch.file].1[cut..].fill(0);
                let (wal, recovered) = torn.open().await.unwrap();
                assert_eq!(recovered, without, "batch {at} cut at {cut}");
                if cut % 16 == 0 {
                    goes_on(wal, recovered, torn.options).await;
                } else {
                    wal.close().await;
                }
                // With anything after it, it was synced.
                if batch.file < last_file {
                    let mut bad = good.clone();
                    bad.files[batch.file].1[cut..].fill(0);
                    let error = bad
                        .recovered()
                        .await
                        .expect_err("a synced batch is missing");
                    let WalError::Corrupt { .. } = error else {
                        panic!("{error}")
                    };
                }
            }
        }
    });
}

async fn goes_on(wal: Wal<SimEnv>, mut recovered: Recovered, options: Options) {
    for _ in 0..3 {
        let purged = recovered.purged.map_or(0, |(index, _)| index);
        let next = recovered.entries.last().map_or(purged, |e| e.index) + 1;
        put(&wal, vec![entry(next, 9)]).await;
        recovered.entries.push(recovered_entry(next, 9));
    }
    wal.close().await;
    let (wal, again) = start(options).await.unwrap();
    assert_eq!(again, recovered);
    wal.close().await;
}

/// Which sectors of `len` bytes at `from` a crash keeps: all subsets when there are few.
fn subsets(from: usize, to: usize) -> Vec<Vec<(usize, usize)>> {
    let sectors: Vec<_> = (from / SECTOR..to.div_ceil(SECTOR))
        .map(|s| ((s * SECTOR).max(from), ((s + 1) * SECTOR).min(to)))
        .collect();
    let count = sectors.len();
    let masks: Vec<u64> = if count <= 6 {
        (0..1 << count).collect()
    } else {
        (0..64)
            .map(|_| sim::random() & ((1 << count) - 1))
            .collect()
    };
    let lost = |mask: u64| {
        let sectors = sectors.iter().enumerate();
        sectors
            .filter(|(i, _)| mask >> i & 1 == 1)
            .map(|(_, s)| *s)
            .collect()
    };
    masks.into_iter().map(lost).collect()
}

#[test]
fn a_write_of_which_any_sectors_are_lost_costs_only_itself() {
    on_a_machine(async {
        let options = Options {
            segment_bytes: 16 << 10,
            fsync: true,
        };
        let (mut whole, mut cut) = (0, 0);
        // Everything lies across a sector's edge at some shift: header, trailer, records.
        for shift in (0..SECTOR).step_by(8) {
            for last in [
                payload(2, 3),
                payload(2, 600),
                hollow(2, 2_000),
                payload(2, 5_000),
            ] {
                let good = written(options, &[vec![payload(1, shift)], vec![last]]).await;
                let full = good.recovered().await.unwrap();
                let batch = *good.batches().last().unwrap();
                for lost in subsets(batch.from, batch.to) {
                    let mut torn = good.clone();
                    for (from, to) in &lost {
                        torn.files[batch.file].1[*from..*to].fill(0);
                    }
                    let same = torn.files == good.files;
                    let recovered = match torn.recovered().await {
                        Ok(recovered) => recovered,
                        Err(error) => panic!("shift {shift}, {batch:?} without {lost:?}: {error}"),
                    };
                    let entries = if same { 2 } else { 1 };
                    assert_eq!(
                        recovered.entries,
                        full.entries[..entries],
                        "shift {shift}, {batch:?} without {lost:?}"
                    );
                    if same { whole += 1 } else { cut += 1 }
                }
            }
        }
        assert!(whole > 250 && cut > 3_000, "{whole} whole, {cut} cut off");
    });
}

/// A batch that was synced is damaged (a bit, or a sector that reads as zeros), and the one after it is torn.
#[test]
fn damage_before_a_torn_write_is_not_taken_for_one() {
    on_a_machine(async {
        let options = Options {
            segment_bytes: 16 << 10,
            fsync: true,
        };
        let (mut bits, mut sectors, mut unknown) = (0, 0, 0);
        for shift in (0..SECTOR).step_by(56) {
            for len in [5, 900] {
                let appends = [
                    vec![payload(1, shift)],
                    vec![payload(2, len)],
                    vec![payload(3, 900)],
                ];
                let good = written(options, &appends).await;
                let [.., hit, next] = good.batches()[..] else {
                    panic!("three batches")
                };
                let damages = (hit.from..hit.to)
                    .step_by(13)
                    .map(|at| (at, at + 1, false))
                    .chain(
                        subsets(hit.from, hit.to)
                            .into_iter()
                            .filter(|lost| lost.len() == 1)
                            .map(|lost| (lost[0].0, lost[0].1, true)),
                    );
                for (from, to, sector) in damages {
                    for lost in subsets(next.from, next.to) {
                        let mut bad = good.clone();
                        let bytes = &mut bad.files[hit.file].1;
                        lost.iter().for_each(|(from, to)| bytes[*from..*to].fill(0));
                        let followed = !codec::all_zero(&bytes[next.from..]);
                        if sector {
                            bytes[from..to].fill(0)
                        } else {
                            bytes[from] ^= 4
                        }
                        match bad.recovered().await {
                            Err(error) => {
                                bad.names(&error, hit.file, from);
                                if sector { sectors += 1 } else { bits += 1 }
                            }
                            Ok(recovered) => {
                                assert_eq!(recovered.entries.len(), 1);
                                assert!(
                                    sector,
                                    "a flipped bit at {from} of {hit:?} took it along; lost {lost:?}"
                                );
                                // A batch of which header and trailer are gone, and no header nor trailer after it:
                                // the rest could be its own. FORMAT.md says so.
                                let gone = from < hit.from + codec::BATCH_HEADER
                                    && to > hit.to - codec::BATCH_TRAILER;
                                let next_head = lost.first().is_some_and(|(from, to)| {
                                    *from < next.from + codec::BATCH_HEADER && *to > next.from
                                });
                                assert!(
                                    !followed
                                        || gone
                                            && next_head
                                            && lost.last().is_some_and(
                                                |(_, to)| *to > next.to - codec::BATCH_TRAILER
                                            ),
                                    "{hit:?} without {from}..{to}, {next:?} without {lost:?}"
                                );
                                unknown += u32::from(followed);
                            }
                        }
                    }
                }
            }
        }
        assert!(
            bits > 4_000 && sectors > 100,
            "{bits} bits, {sectors} sectors"
        );
        assert!(unknown < 40, "{unknown} were undecidable");
    });
}

#[test]
fn a_search_through_what_looks_like_batches_takes_linear_time() {
    // A client's value of nothing but headers, each claiming to be as long as a checksum over it would hurt.
    let mut bait = Vec::new();
    bait.extend_from_slice(b"BQB\x02aaaabbbbbbbb");
    bait.extend_from_slice(&(1u32 << 21).to_le_bytes());
    bait.extend_from_slice(&[7; 20]);
    let trailer = [&(1u32 << 20).to_le_bytes()[..], b"aaaabbbbBQE\xa5"].concat();
    bait.extend_from_slice(&trailer);
    let mut segment = vec![0; 64];
    for _ in 0..(8 << 20) / bait.len() {
        segment.extend_from_slice(&bait);
    }
    segment[64] = 0; // The first sector was not written.
    let place = Place {
        log_id: 1,
        segment: 1,
        offset: 64,
    };
    let begun = RealEnv::now();
    let Found::Torn { end: None, .. } = read_batch(&segment, place) else {
        panic!("nothing in it is a batch")
    };
    assert_eq!(crate::scan::later(&segment, place, None), None);
    // A checksum over a mebibyte at each of 150,000 places would take minutes.
    let took = RealEnv::now().saturating_since(begun);
    assert!(took < Duration::from_secs(10), "{took:?}");
}

#[test]
fn a_log_of_format_1_is_refused_with_what_to_do() {
    on_a_machine(async {
        let mut old = written(SIZES, &[vec![entry(1, 1)]]).await;
        // As a version before the first release wrote it.
        let header = &mut old.files[0].1[..codec::SEGMENT_HEADER];
        header[12..16].copy_from_slice(&[1, 0, 1, 0]);
        let crc = crc32c::crc32c_append(crc32c::crc32c(&header[..8]), &header[12..]);
        header[8..12].copy_from_slice(&crc.to_le_bytes());
        let error = old.recovered().await.expect_err("it is refused");
        assert!(
            matches!(error, WalError::TooOld { format: 1, .. }),
            "{error}"
        );
        let error = error.to_string();
        assert!(
            error.contains("0000000000000001.wal") && error.contains("empty data directory"),
            "{error}"
        );
    });
}
