//! `active-vlm import`: a folder (`pool.jsonl`, `test.jsonl`, images) into a running service, as any client would.
//!
//! Invariant: importing twice leaves the service as importing once does; what the service refuses is told item by item.
//! The pool's answers stay in the folder: the service has to ask for them. Deliberately absent: any check that the
//! service does itself.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, bail};
use indicatif::{ProgressBar, ProgressStyle};
use tonic::Code;

use super::demo::Client;
use super::world::folder::{Folder, Row};
use crate::grpc::pb;

/// The split of a `test.jsonl` row that decides the gate; every other goes to the test.
const VALIDATION: &str = "validation";

/// Arguments of `active-vlm import`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// The folder with pool.jsonl, test.jsonl and images.
    pub dir: PathBuf,
    /// The pool it goes to; made with the default policy when it is not there.
    #[arg(long, value_name = "NAME")]
    pub pool: String,
    /// Where the service listens.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:50051")]
    pub server: String,
}

/// Imports a folder and prints what became of it.
///
/// # Errors
/// When the folder is unsound, the service cannot be reached, or it refuses a sample.
pub async fn run(args: &Args) -> anyhow::Result<()> {
    let folder = Folder::read(&args.dir)?;
    let mut client = Client::new(super::connect(&args.server).await?);
    let pool = format!("pools/{}", args.pool);
    let made = ensure_pool(&mut client, &args.pool, &pool).await?;
    println!("{pool}: {}", if made { "made with the default policy" } else { "is there" });

    let rows = folder.pool.iter().map(|row| (row.clone(), pb::Split::Pool));
    let rows: Vec<(Row, pb::Split)> =
        rows.chain(folder.test.iter().map(|row| (row.clone(), split(row)))).collect();
    let bar = ProgressBar::new(rows.len() as u64);
    if let Ok(style) = ProgressStyle::with_template("  {bar:30.cyan/dim} {pos}/{len} samples") {
        bar.set_style(style.progress_chars("━━╌"));
    }
    // The stream cannot carry an error of ours: it ends early, and the error waits here.
    let fault: Arc<Mutex<Option<anyhow::Error>>> = Arc::default();
    let (kept, moved) = (fault.clone(), bar.clone());
    let inputs = rows.into_iter().map_while(move |(row, split)| match folder.image(&row) {
        Ok(image) => Some(input(row, split, image)),
        Err(error) => {
            *kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            None
        }
    });
    let reply = client.send(&pool, inputs, move |sent| moved.set_position(sent)).await;
    bar.finish_and_clear();
    if let Some(error) = fault.lock().unwrap_or_else(PoisonError::into_inner).take() {
        return Err(error);
    }
    let reply = reply.context("AddSamples")?;
    for rejected in &reply.rejected {
        println!("  {} refused: {}", rejected.sample_id, rejected.reason);
    }
    println!(
        "{} added, {} were there already, {} refused",
        reply.added_count, reply.unchanged_count, reply.rejected_count
    );
    if reply.rejected_count > 0 {
        bail!("{} samples were refused: mend them and import again", reply.rejected_count);
    }
    Ok(())
}

/// Whether the pool had to be made.
async fn ensure_pool(client: &mut Client, id: &str, name: &str) -> anyhow::Result<bool> {
    match client.pools.get_pool(pb::GetPoolRequest { name: name.to_owned() }).await {
        Ok(_) => Ok(false),
        Err(status) if status.code() == Code::NotFound => {
            let request = pb::CreatePoolRequest {
                pool_id: id.to_owned(),
                pool: Some(pb::Pool::default()),
                request_id: format!("import-{id}"),
            };
            client.pools.create_pool(request).await.context("CreatePool")?;
            Ok(true)
        }
        Err(status) => Err(status).context("GetPool"),
    }
}

fn split(row: &Row) -> pb::Split {
    if row.split.eq_ignore_ascii_case(VALIDATION) { pb::Split::Validation } else { pb::Split::Test }
}

fn input(row: Row, split: pb::Split, image: Vec<u8>) -> pb::SampleInput {
    let image = pb::ImageInput {
        source: Some(pb::image_input::Source::Data(image.into())),
        media_type: String::new(),
    };
    let region = |&[x_min, y_min, x_max, y_max]: &[f32; 4]| pb::Region { x_min, y_min, x_max, y_max };
    let regions = row.regions.iter().map(region).collect();
    pb::SampleInput {
        sample_id: row.id,
        images: vec![image],
        question: row.question,
        choices: row.choices,
        paraphrases: row.paraphrases,
        group: row.family,
        split: split.into(),
        slice: row.slice,
        // Where the evidence of the pool's answers is stays in the folder with them.
        regions: if split == pb::Split::Pool { Vec::new() } else { regions },
        reference_answer: (split != pb::Split::Pool).then_some(row.answer),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_a_service_takes_is_sent_and_a_pool_s_answer_is_not() {
        let row = Row {
            id: "a".into(),
            question: "Why?".into(),
            answer: "so".into(),
            family: "reasons".into(),
            choices: vec!["so".into()],
            paraphrases: vec!["How so?".into()],
            regions: vec![[0.0, 0.25, 0.5, 1.0]],
            slice: "noise".into(),
            ..Row::default()
        };
        let sent = input(row.clone(), pb::Split::Pool, vec![1]);
        assert_eq!((sent.sample_id.as_str(), sent.group.as_str()), ("a", "reasons"));
        assert_eq!((sent.choices.len(), &sent.paraphrases[..]), (1, &["How so?".to_owned()][..]));
        assert_eq!((sent.reference_answer, sent.regions.len(), sent.slice.as_str()), (None, 0, "noise"));
        let held_out = input(row, pb::Split::Test, vec![1]);
        assert_eq!((held_out.reference_answer.as_deref(), held_out.regions[0].y_min), (Some("so"), 0.25));
    }
}
