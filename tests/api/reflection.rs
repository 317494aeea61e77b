//! Reflection: a client that knows nothing finds everything.

use crate::support::spawn_app;
use prost::Message as _;
use tonic::transport::Channel;
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

async fn asked(client: &mut ServerReflectionClient<Channel>, question: MessageRequest) -> MessageResponse {
    let request = ServerReflectionRequest { host: String::new(), message_request: Some(question) };
    let answers = client.server_reflection_info(futures::stream::iter([request])).await;
    let answer = answers.expect("a stream").into_inner().message().await.expect("an answer");
    answer.and_then(|answer| answer.message_response).expect("an answer")
}

#[tokio::test]
async fn every_service_is_listed_and_every_method_described_with_its_comment() {
    let app = spawn_app().await;
    let mut client = ServerReflectionClient::new(app.client.channel.clone());
    let MessageResponse::ListServicesResponse(listed) =
        asked(&mut client, MessageRequest::ListServices(String::new())).await
    else {
        panic!("no list of services");
    };
    let names: Vec<String> = listed.service.into_iter().map(|service| service.name).collect();
    let ours: Vec<&String> = names.iter().filter(|name| name.starts_with("activevlm.v1.")).collect();
    assert_eq!(ours.len(), 6, "{names:?}");
    assert!(names.iter().any(|name| name == "grpc.health.v1.Health"), "{names:?}");
    for name in ours {
        let question = MessageRequest::FileContainingSymbol(name.clone());
        let MessageResponse::FileDescriptorResponse(found) = asked(&mut client, question).await else {
            panic!("no file with {name}");
        };
        let mut files = found
            .file_descriptor_proto
            .iter()
            .map(|file| prost_types::FileDescriptorProto::decode(file.as_slice()).expect("a descriptor"));
        let short = name.rsplit('.').next().expect("a last part");
        let file = files
            .find(|file| file.service.iter().any(|service| service.name() == short))
            .expect("the file that was asked for");
        let methods: usize = file.service.iter().map(|service| service.method.len()).sum();
        let info = file.source_code_info.expect("comments");
        // Path 6: services, 0: the first, 2: its methods.
        let told = info
            .location
            .iter()
            .filter(|at| matches!(at.path[..], [6, 0, 2, _]) && at.leading_comments.is_some());
        assert_eq!(told.count(), methods, "{name}");
    }
}
