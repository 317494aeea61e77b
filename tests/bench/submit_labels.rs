//! [submit_labels] SubmitLabels, 100 per call, beside a plain multi-row INSERT of the same rows.

use super::{report::Report, server::Server};
use active_vlm::grpc::pb::{
    self, label_service_client::LabelServiceClient, selection_service_client::SelectionServiceClient,
};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _};
use std::time::Instant;
use tokio::task::JoinSet;

const CLIENTS: usize = 8;
const CALLS: usize = 40;
const PER_CALL: usize = 100;

pub async fn run(report: &mut Report) -> anyhow::Result<()> {
    eprintln!("submit_labels: {CLIENTS} clients, {CALLS} calls each of {PER_CALL} labels");
    let server = Server::start("bench_submit_labels").await?;
    server.create_pool("bench").await?;
    server.plan("bench", (CLIENTS * CALLS * PER_CALL) as i64).await?;
    let mut work = Vec::new();
    for client in 0..CLIENTS {
        let mut requests = Vec::new();
        let mut selection = SelectionServiceClient::new(server.connect().await?);
        for call in 0..CALLS {
            requests.push(lease(&mut selection, client, call).await?);
        }
        work.push((LabelServiceClient::new(server.connect().await?), requests));
    }
    let start = Instant::now();
    let mut clients = JoinSet::new();
    for (mut client, requests) in work {
        clients.spawn(async move {
            for request in requests {
                let verdicts = client.submit_labels(request).await?.into_inner().verdicts;
                let accepted = pb::verdict::Code::Accepted as i32;
                anyhow::ensure!(
                    verdicts.len() == PER_CALL && verdicts.iter().all(|v| v.code == accepted),
                    "{verdicts:?}"
                );
            }
            Ok(())
        });
    }
    while let Some(done) = clients.join_next().await {
        done??;
    }
    let ours = (CLIENTS * CALLS * PER_CALL) as f64 / start.elapsed().as_secs_f64();
    let peer = plain_insert(&server).await?;
    report.against("submit_labels", ours, "labels/s", ("plain multi-row INSERT, rows/s", peer), Some(0.5));
    Ok(())
}

/// Leases a call's worth of samples and answers them.
async fn lease(
    client: &mut SelectionServiceClient<tonic::transport::Channel>,
    annotator: usize,
    call: usize,
) -> anyhow::Result<pb::SubmitLabelsRequest> {
    let annotator = format!("annotator-{annotator}");
    let request = pb::NextBatchRequest {
        parent: "pools/bench".into(),
        annotator: annotator.clone(),
        size: PER_CALL as i32,
        request_id: format!("{annotator}-{call}"),
        ..Default::default()
    };
    let batch = client.next_batch(request).await?.into_inner();
    let lease = batch.lease.unwrap_or_default();
    let labels = batch.queries.iter().map(|query| {
        let answer = pb::Answer {
            text: "yes".into(),
            reasoning_steps: vec!["Row 2 holds 3 7 1.".into(), "One of them is a 7.".into()],
            regions: vec![pb::Region { x_min: 0.25, y_min: 0.25, x_max: 0.5, y_max: 0.5 }],
            rejected_reasonings: vec![],
        };
        pb::LabelInput {
            client_label_id: uuid::Uuid::new_v4().to_string(),
            sample: query.sample.clone(),
            content: Some(pb::label_input::Content::Answer(answer)),
            ..Default::default()
        }
    });
    Ok(pb::SubmitLabelsRequest {
        parent: "pools/bench".into(),
        request_id: format!("submit-{annotator}-{call}"),
        annotator,
        lease: lease.name,
        lease_token: lease.token,
        labels: labels.collect(),
    })
}

/// The rows that were just written, once more into a bare copy of their table with its indexes, by as many clients in
/// as many `INSERT ... VALUES` statements.
async fn plain_insert(server: &Server) -> anyhow::Result<f64> {
    let mut setup = server.db.acquire().await?;
    setup.execute("CREATE TABLE plain (LIKE labels INCLUDING ALL)").await?;
    let columns: String = sqlx::query_scalar(
        "SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute
         WHERE attrelid = 'labels'::regclass AND attnum > 0 AND NOT attisdropped",
    )
    .fetch_one(&mut *setup)
    .await?;
    let quoted =
        columns.split(", ").map(|column| format!("quote_nullable({column})")).collect::<Vec<_>>().join(", ");
    let statements: Vec<String> = sqlx::query_scalar(AssertSqlSafe(format!(
        "SELECT 'INSERT INTO plain ({columns}) VALUES ' || string_agg(value, ',')
         FROM (SELECT '(' || concat_ws(',', {quoted}) || ')' AS value, (row_number() OVER (ORDER BY id) - 1) / {PER_CALL} AS call
               FROM labels) rows
         GROUP BY call ORDER BY call"
    )))
    .fetch_all(&mut *setup)
    .await?;
    drop(setup);
    anyhow::ensure!(statements.len() == CLIENTS * CALLS, "{} statements", statements.len());
    // Connected beforehand, as our clients are.
    let mut connections = Vec::new();
    for _ in 0..CLIENTS {
        connections.push(sqlx::PgConnection::connect(&server.url).await?);
    }
    let start = Instant::now();
    let mut clients = JoinSet::new();
    for (chunk, mut connection) in statements.chunks(CALLS).zip(connections) {
        let chunk = chunk.to_vec();
        clients.spawn(async move {
            for statement in chunk {
                sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut connection).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = clients.join_next().await {
        done??;
    }
    Ok((CLIENTS * CALLS * PER_CALL) as f64 / start.elapsed().as_secs_f64())
}
