//! Names of things that are not there.

use super::leased;
use crate::support::{answers, ask, predict, refused, samples, spawn_app};
use active_vlm::grpc::pb;
use tonic::Code;

#[tokio::test]
async fn what_does_not_exist_is_named_with_its_kind() {
    let app = spawn_app().await;
    let (pool, batch) = leased(&app).await;
    let (client, nobody) = (&app.client, uuid::Uuid::nil());
    let missing = |details: tonic_types::ErrorDetails| {
        let resource = details.resource_info().expect("the resource").clone();
        (resource.resource_type, resource.resource_name)
    };
    macro_rules! not_found {
        ($call:expr) => {
            missing(refused($call.await, Code::NotFound, "NOT_FOUND"))
        };
    }
    let named = |kind: &str, name: &str| (kind.to_owned(), name.to_owned());
    let name = |rest: &str| format!("{pool}/{rest}");
    let get = pb::GetPoolRequest { name: "pools/none".to_owned() };
    assert_eq!(not_found!(client.pools.clone().get_pool(get)).0, "Pool");
    assert_eq!(not_found!(client.next_batch(ask("pools/none", "ann", 1, "x"))).0, "Pool");
    assert_eq!(not_found!(client.add_samples("pools/none", samples(1))).0, "Pool");
    assert_eq!(not_found!(client.watch("pools/none", "")).0, "Pool");
    let get = pb::GetSampleRequest { name: name("samples/none"), ..Default::default() };
    let (kind, what) = not_found!(client.pools.clone().get_sample(get));
    assert!(kind == "Sample" && what.contains("none"), "{kind} {what}");
    let get = pb::GetRoundRequest { name: name("rounds/99") };
    assert_eq!(not_found!(client.rounds.clone().get_round(get)), named("Round", "rounds/99"));
    let get = pb::GetVersionRequest { name: name("versions/99") };
    assert_eq!(not_found!(client.models.clone().get_version(get)), named("Version", "versions/99"));
    let get = pb::GetTrainingRequest { name: name(&format!("trainings/{nobody}")) };
    assert_eq!(not_found!(client.trainings.clone().get_training(get)).0, "Training");
    let cancel = pb::CancelTrainingRequest { name: name(&format!("trainings/{nobody}")) };
    assert_eq!(not_found!(client.trainings.clone().cancel_training(cancel)).0, "Training");
    let token = nobody.to_string();
    let renew = pb::RenewLeaseRequest { name: name(&format!("leases/{nobody}")), token, lease_ttl: None };
    assert_eq!(not_found!(client.selection.clone().renew_lease(renew)).0, "Lease");
    let key = pb::image_input::Source::Sha256("0f".repeat(32));
    assert_eq!(not_found!(client.models.clone().predict(predict(&pool, key))).0, "Image");
    let mut submission = answers(&pool, "ann", "l1", &batch);
    submission.lease = name(&format!("leases/{nobody}"));
    assert_eq!(not_found!(client.submit(submission)).0, "Lease");
}
