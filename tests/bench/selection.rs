//! [k_center] Exact core-sets of 1,000 among 100,000 samples beside what others offer, and [coverage_1m] the default
//! strategy on a million samples whose embeddings lie in a memory map. Each side picks in a process of its own.

use super::report::Report;
use active_vlm::acquisition::{Caps, Coverage, Embeddings, Known, coverage, k_center};
use anyhow::Context as _;
use half::f16;
use memmap2::Mmap;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

/// Width of an embedding.
pub const DIM: usize = 512;
const PICKS: usize = 1_000;
const CLUSTERS: usize = 1_000;
/// Samples labelled already.
const LABELLED: usize = 100;

/// What a side measured.
#[derive(Debug, Serialize, Deserialize)]
struct Measured {
    seconds: f64,
    picks: Vec<usize>,
    #[serde(default)]
    peak_bytes: f64,
}

pub fn center(report: &mut Report) -> anyhow::Result<()> {
    let rows = 100_000;
    eprintln!("k_center: {PICKS} of {rows} x {DIM} float32, then others' code");
    let pool = pool(rows, 4)?;
    let own = child("k_center", &pool, rows)?;
    report.tell("k_center", own.seconds, "s");
    for (peer, most) in [("torch", 0.25), ("scikit-activeml", 0.1), ("distil", 0.1)] {
        let other = python(peer, &pool, rows)?;
        report.less(&format!("k_center.{peer}"), own.seconds, "s", (peer, other.seconds), most);
        let same = own.picks.iter().zip(&other.picks).take_while(|(a, b)| a == b).count();
        report.tell(&format!("k_center.{peer}_same"), same as f64, "first picks");
    }
    eprintln!("  small-text is left out: its time grows with the square of the picks, to hours for these");
    std::fs::remove_file(pool)?;
    Ok(())
}

pub fn million(report: &mut Report) -> anyhow::Result<()> {
    let mut seconds = Vec::new();
    for rows in [250_000, 1_000_000] {
        eprintln!("coverage_1m: {PICKS} of {rows} x {DIM} float16 in a memory map");
        let pool = pool(rows, 2)?;
        let own = child("coverage", &pool, rows)?;
        anyhow::ensure!(own.picks.len() == PICKS, "{} picks", own.picks.len());
        seconds.push(own.seconds);
        if rows == 1_000_000 {
            report.at_most("coverage_1m", own.seconds, "s", 180.0);
            report.at_most("coverage_1m.memory", own.peak_bytes / 1e9, "GB", 4.0);
        }
        std::fs::remove_file(pool)?;
    }
    report.less("coverage_1m.growth", seconds[1], "s", ("4 x a quarter of the pool", 4.0 * seconds[0]), 1.0);
    Ok(())
}

/// A side of ours: works and prints what it measured.
pub fn run_child(arguments: &[String]) -> anyhow::Result<()> {
    let [work, file, rows] = arguments else { anyhow::bail!("select-child WORK FILE ROWS") };
    let rows: usize = rows.parse()?;
    let file = File::open(file)?;
    // SAFETY: the benchmark wrote the file and nobody else knows of it.
    let map = unsafe { Mmap::map(&file)? };
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let candidates: Vec<usize> = (LABELLED..rows).collect();
    let labelled: Vec<usize> = (0..LABELLED).collect();
    let known = Known { labelled: Embeddings::empty(), planned: &labelled };
    let start = Instant::now();
    let picks = match work.as_str() {
        "k_center" => {
            let pool = Embeddings::new(numbers::<f32>(&map), DIM)?;
            let picks = k_center(pool, &candidates, known, PICKS, None, Caps::none(), &mut rng)?;
            picks.into_iter().map(|pick| pick.row).collect()
        }
        "coverage" => {
            let pool = Embeddings::half(numbers::<f16>(&map), DIM)?;
            let values: Vec<f32> = (0..rows).map(|row| (mix(row as u64) % 1_000) as f32 / 500.0).collect();
            let how = Coverage::default();
            coverage(&values, pool, &candidates, known, PICKS, how, Caps::none(), &mut rng)?
        }
        other => anyhow::bail!("no work is called {other}"),
    };
    let measured = Measured { seconds: start.elapsed().as_secs_f64(), picks, peak_bytes: peak_bytes()? };
    println!("{}", serde_json::to_string(&measured)?);
    Ok(())
}

fn child(work: &str, pool: &Path, rows: usize) -> anyhow::Result<Measured> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("select-child").arg(work).arg(pool).arg(rows.to_string());
    measured(&mut command)
}

fn python(peer: &str, pool: &Path, rows: usize) -> anyhow::Result<Measured> {
    let mut command = super::models::python("selection.py")?;
    command.arg(peer).arg("--pool").arg(pool);
    for (name, value) in [("rows", rows), ("dim", DIM), ("labelled", LABELLED), ("picks", PICKS)] {
        command.arg(format!("--{name}")).arg(value.to_string());
    }
    measured(&mut command)
}

fn measured(command: &mut Command) -> anyhow::Result<Measured> {
    let output = command.output().with_context(|| format!("running {command:?}"))?;
    let said = String::from_utf8_lossy(&output.stdout);
    let line = said.lines().rev().find(|line| line.starts_with('{'));
    let line = line.with_context(|| {
        format!("{command:?} measured nothing: {}", String::from_utf8_lossy(&output.stderr))
    })?;
    Ok(serde_json::from_str(line)?)
}

/// Writes unit rows around [`CLUSTERS`] centres, as float32 (4 bytes a number) or float16 (2).
pub fn pool(rows: usize, width: usize) -> anyhow::Result<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bench");
    std::fs::create_dir_all(&folder)?;
    let path = folder.join(format!("pool-{rows}.f{}", width * 8));
    let mut file = BufWriter::with_capacity(1 << 20, File::create(&path)?);
    // Drawing half a billion normal numbers would take longer than selecting: noise comes from a table of rows.
    let table = |seed: u64, count: usize| -> Vec<f32> {
        (0..count * DIM).map(|i| normal(seed ^ (i as u64))).collect()
    };
    let (centres, noise) = (table(1 << 60, CLUSTERS), table(1 << 61, 4_099));
    let mut row = [0f32; DIM];
    for i in 0..rows {
        let centre = (mix(i as u64) as usize % CLUSTERS) * DIM;
        let (a, b) =
            ((mix(i as u64 ^ 0xa5) as usize % 4_099) * DIM, (mix(i as u64 ^ 0x5a) as usize % 4_099) * DIM);
        for (j, x) in row.iter_mut().enumerate() {
            *x = centres[centre + j] + 0.5 * (noise[a + j] - noise[b + (j * 7 + 1) % DIM]);
        }
        let scale = 1.0 / row.iter().map(|x| x * x).sum::<f32>().sqrt();
        for x in row.map(|x| x * scale) {
            match width {
                4 => file.write_all(&x.to_le_bytes())?,
                _ => file.write_all(&f16::from_f32(x).to_le_bytes())?,
            }
        }
    }
    file.flush()?;
    Ok(path)
}

/// The file's numbers: little-endian, as this machine has to be.
fn numbers<T>(map: &Mmap) -> &[T] {
    // SAFETY: a map begins at a page, which suits any number; every pattern of bits is a float.
    let (before, numbers, after) = unsafe { map.align_to::<T>() };
    assert!(before.is_empty() && after.is_empty() && cfg!(target_endian = "little"));
    numbers
}

fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Nearly normal: four uniform numbers added.
fn normal(i: u64) -> f32 {
    let x = mix(i);
    let sum = (x & 0xffff) + (x >> 16 & 0xffff) + (x >> 32 & 0xffff) + (x >> 48);
    (sum as f32 / 65536.0 - 2.0) * 1.732
}

/// The most memory this process has held, the pages of its map included.
fn peak_bytes() -> anyhow::Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("VmHWM")).context("no VmHWM")?;
    Ok(line.split_whitespace().nth(1).context("no number")?.parse::<f64>()? * 1024.0)
}
