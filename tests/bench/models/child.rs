//! Our side of a work, in a process of its own: takes the arguments that the peer takes and prints the same JSON.

use active_vlm::engine::probe::{self, Span};
use active_vlm::model::{
    Checkpoint, Cut, Generation, Inputs, KvCache, LoraConfig, Pass, Replies, Sampling, Trainable, Visual,
    Vlm, generate, score_answers,
};
use active_vlm::training::adamw::{AdamW, AdamWConfig};
use anyhow::Context as _;
use safetensors::SafeTensors;
use std::path::Path;
use std::time::Instant;
use tch::{Device, Kind, Tensor};

/// The arguments, by name.
struct Arguments(Vec<String>);

impl Arguments {
    fn get(&self, name: &str) -> Option<&str> {
        let at = self.0.iter().position(|argument| argument == name)?;
        self.0.get(at + 1).map(String::as_str)
    }

    fn number(&self, name: &str, usual: usize) -> usize {
        self.get(name).and_then(|text| text.parse().ok()).unwrap_or(usual)
    }

    fn has(&self, name: &str) -> bool {
        self.0.iter().any(|argument| argument == name)
    }
}

/// Rows of ids and their pictures, as the peer's file has them.
struct Given {
    rows: Vec<Vec<i64>>,
    pixels: Tensor,
}

impl Given {
    fn open(path: &str) -> anyhow::Result<Self> {
        let bytes = std::fs::read(path)?;
        let file = SafeTensors::deserialize(&bytes)?;
        let tensor = |name: &str, kind| -> anyhow::Result<Tensor> {
            let view = file.tensor(name)?;
            let shape: Vec<i64> = view.shape().iter().map(|&n| n as i64).collect();
            Ok(Tensor::from_data_size(view.data(), &shape, kind))
        };
        let ids = tensor("input_ids", Kind::Int64)?;
        Ok(Self { rows: Vec::try_from(ids)?, pixels: tensor("pixel_values", Kind::Float)?.flatten(0, 1) })
    }

    /// The prompts with every image through the tower: what a user pays for the first time.
    fn prompts(&self, vlm: &Vlm) -> anyhow::Result<Inputs> {
        let tokens = vlm.vision(&self.pixels.to_device(vlm.device()).to_kind(vlm.kind()));
        let visual: Vec<Visual> =
            (0..tokens.size()[0]).map(|at| Visual { features: tokens.get(at), cut: Cut::WHOLE }).collect();
        Ok(vlm.prompts(&self.rows, &visual)?)
    }
}

pub fn run(arguments: Vec<String>) -> anyhow::Result<()> {
    let work = arguments.first().context("a work")?.clone();
    let arguments = Arguments(arguments);
    let threads = arguments.number("--threads", 2);
    tch::set_num_threads(threads as i32);
    let name = arguments.get("--device").unwrap_or("cpu");
    probe::device(name)?;
    let device = active_vlm::model::device(name).context("--device")?;
    let kind = if arguments.get("--dtype") == Some("bfloat16") { Kind::BFloat16 } else { Kind::Float };
    let checkpoint = Checkpoint::open(Path::new(arguments.get("--model").context("--model")?))?;
    let vlm = checkpoint.build(device, kind)?;
    let given = Given::open(arguments.get("--inputs").context("--inputs")?)?;
    let mut body = body(&work, vlm, given, &arguments)?;
    let mut body = || {
        body()?;
        if let Device::Cuda(index) = device {
            tch::Cuda::synchronize(index as i64);
        }
        anyhow::Ok(())
    };
    body()?;
    let span = Span::begin(device);
    let mut seconds = Vec::new();
    for _ in 0..arguments.number("--repeats", 3) {
        let start = Instant::now();
        body()?;
        seconds.push(start.elapsed().as_secs_f64());
    }
    println!("{}", serde_json::json!({"work": work, "seconds": seconds, "peak_bytes": span.peak()}));
    Ok(())
}

type Body = Box<dyn FnMut() -> anyhow::Result<()>>;

fn body(work: &str, vlm: Vlm, given: Given, arguments: &Arguments) -> anyhow::Result<Body> {
    let most = arguments.number("--new-tokens", 64);
    Ok(match work {
        "prefill" => Box::new(move || {
            tch::no_grad(|| {
                let hidden = vlm.prefill(&given.prompts(&vlm)?, Some(&mut KvCache::new()));
                let _ = std::hint::black_box(vlm.logits(&hidden.select(1, -1)));
                Ok(())
            })
        }),
        "generate" | "chains" => {
            let chains = if work == "chains" { arguments.number("--chains", 8) } else { 1 };
            let sampling = (work == "chains").then_some(Sampling { temperature: 0.9, top_p: 0.95, seed: 1 });
            let how = Generation { most, sampling, ..Generation::default() };
            Box::new(move || {
                let texts = tch::no_grad(|| {
                    Ok::<_, anyhow::Error>(generate(&vlm, &given.prompts(&vlm)?, chains, &how))
                })?;
                anyhow::ensure!(texts.iter().all(|text| text.tokens.len() == most), "a text is too short");
                Ok(())
            })
        }
        "answers" => {
            let answers = std::fs::read_to_string(arguments.get("--answers").context("--answers")?)?;
            let answers: Vec<Vec<i64>> = serde_json::from_str(&answers)?;
            Box::new(move || {
                let scores = scores(&vlm, &given, &answers)?;
                anyhow::ensure!(
                    scores.len() == answers.len() && scores.iter().all(|s| s.is_finite()),
                    "a score is missing"
                );
                Ok(())
            })
        }
        "lora_step" => lora_step(vlm, given, arguments)?,
        other => anyhow::bail!("no work is called {other}"),
    })
}

/// Log-probability of every answer to the one prompt.
fn scores(vlm: &Vlm, given: &Given, answers: &[Vec<i64>]) -> anyhow::Result<Vec<f32>> {
    tch::no_grad(|| {
        let (prompts, mut cache) = (given.prompts(vlm)?, KvCache::new());
        let hidden = vlm.prefill(&prompts, Some(&mut cache)).select(1, -1);
        let first = vlm.logits(&hidden).log_softmax(-1, Kind::Float);
        Ok(score_answers(vlm, &cache, &prompts.mask, &first, &[answers], 8192).0.swap_remove(0))
    })
}

/// One optimiser step on the last tokens of each row.
fn lora_step(base: Vlm, given: Given, arguments: &Arguments) -> anyhow::Result<Body> {
    let learn = arguments.number("--learn", 8);
    let checkpointing = arguments.has("--checkpointing");
    let lora = LoraConfig { dropout: 0.0, ..LoraConfig::default() };
    let vlm = base.fork(&Trainable::Lora(lora), 1)?;
    let mut optimiser = AdamW::new(vlm.trainable(), AdamWConfig::default());
    Ok(Box::new(move || {
        // The tower stands still: no gradients are kept through it.
        let whole = tch::no_grad(|| given.prompts(&vlm))?;
        let (width, rows) = (whole.len(), given.rows.len() as i64);
        let learn = learn as i64;
        let prompts = whole.columns(0, width - learn);
        let replies = Replies {
            rows: Tensor::arange(rows, (Kind::Int64, vlm.device())),
            embeds: whole.embeds.narrow(1, width - learn, learn),
            mask: whole.mask.shallow_clone(),
            gaze: None,
        };
        let targets: Vec<i64> =
            given.rows.iter().flat_map(|row| row[row.len() - learn as usize..].to_vec()).collect();
        let targets = Tensor::from_slice(&targets).to_device(vlm.device());
        vlm.joint(&prompts, &[replies], Pass { seed: 1, checkpointing }, |asked, answered| {
            let hidden = Tensor::cat(&[asked.slice(1, -1, None, 1), answered[0].narrow(1, 0, learn - 1)], 1);
            vlm.logits(&hidden).flatten(0, 1).cross_entropy_for_logits(&targets)
        })?;
        optimiser.clip_grad_norm(1.0);
        optimiser.step(1e-4);
        optimiser.zero_grad();
        Ok(())
    }))
}

/// Seconds to open a folder and have its weights in memory, in the kind they are stored as.
pub fn load(folder: &Path) -> anyhow::Result<f64> {
    let start = Instant::now();
    let checkpoint = Checkpoint::open(folder)?;
    let vlm = checkpoint.build(Device::Cpu, checkpoint.stored_kind())?;
    let seconds = start.elapsed().as_secs_f64();
    std::hint::black_box(&vlm);
    Ok(seconds)
}
