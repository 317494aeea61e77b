#!/usr/bin/env python3
"""A client in another language: walks the whole loop knowing only an address.

It finds services and messages by server reflection; there are no generated stubs of them. It asserts at every step, says
what it did, and exits with 0 only when all of it held.

    python client.py 127.0.0.1:50051 [--timeout SECONDS]
"""

import argparse
import struct
import sys
import time
import uuid
import zlib

import grpc
from google.protobuf import descriptor_pool, message_factory
from google.rpc import error_details_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_status import rpc_status

PACKAGE = "activevlm.v1"
POOL_SAMPLES, HELD_SAMPLES, LABELS = 24, 8, 8


class Service:
    """The methods of one service as Python functions, made from descriptors."""

    def __init__(self, channel, pool, name):
        self._name = name
        for method in pool.FindServiceByName(name).methods:
            kind = ("stream" if method.client_streaming else "unary") + "_" + ("stream" if method.server_streaming else "unary")
            request, reply = (message_factory.GetMessageClass(t) for t in (method.input_type, method.output_type))
            call = getattr(channel, kind)(
                f"/{name}/{method.name}", request_serializer=request.SerializeToString, response_deserializer=reply.FromString
            )
            setattr(self, method.name, call)


def status_details(error):
    """The rich details of a failed call, by their messages' names."""
    known = (error_details_pb2.ErrorInfo, error_details_pb2.BadRequest, error_details_pb2.ResourceInfo)
    found = {}
    for packed in rpc_status.from_call(error).details:
        for kind in known:
            if packed.Is(kind.DESCRIPTOR):
                found[kind.DESCRIPTOR.name] = kind.FromString(packed.value)
    return found


def png(bright, size=64):
    """A grey board with one bright cell, as a PNG."""
    rows = bytearray()
    for y in range(size):
        rows.append(0)
        for x in range(size):
            inside = (x // 16, y // 16) == (bright % 4, bright // 4)
            rows += bytes((230, 230, 230) if inside else (30, 30, 30 + bright))
    chunk = lambda kind, body: struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    header = struct.pack(">IIBBBBB", size, size, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(rows))) + chunk(b"IEND", b"")


def say(text):
    print(f"{time.monotonic() - BEGAN:7.2f} s  {text}", flush=True)


def check(holds, text):
    if not holds:
        raise AssertionError(text)


def refused(call, request, code, reason):
    """Makes a call that must fail with `code` and an ErrorInfo of `reason`; answers the details."""
    try:
        call(request, timeout=30)
    except grpc.RpcError as error:
        details = status_details(error)
        check(error.code() == code, f"{error.code()} instead of {code}: {error.details()}")
        check(details["ErrorInfo"].reason == reason, f"reason {details['ErrorInfo'].reason} instead of {reason}")
        return details
    raise AssertionError(f"{code} was expected, but the call went through")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("address", help="host:port of the service")
    parser.add_argument("--timeout", type=float, default=300.0, help="seconds for the training to finish (default 300)")
    arguments = parser.parse_args()

    channel = grpc.insecure_channel(arguments.address)
    grpc.channel_ready_future(channel).result(timeout=30)
    database = ProtoReflectionDescriptorDatabase(channel)
    pool_of_types = descriptor_pool.DescriptorPool(database)
    names = sorted(database.get_services())
    ours = [name for name in names if name.startswith(PACKAGE + ".")]
    check(len(ours) == 6 and "grpc.health.v1.Health" in names, f"services: {names}")
    say(f"reflection: {', '.join(name.rsplit('.', 1)[1] for name in ours)}")
    pools, selection, labels, rounds, trainings, models = (
        Service(channel, pool_of_types, f"{PACKAGE}.{name}Service")
        for name in ("Pool", "Selection", "Label", "Round", "Training", "Model")
    )
    health = Service(channel, pool_of_types, "grpc.health.v1.Health")

    def message(name, /, **values):
        return message_factory.GetMessageClass(pool_of_types.FindMessageTypeByName(f"{PACKAGE}.{name}"))(**values)

    def enum(name):
        return pool_of_types.FindEnumTypeByName(f"{PACKAGE}.{name}")

    def number(name, value):
        return enum(name).values_by_name[value].number

    def name_of(name, value):
        return enum(name).values_by_number[value].name

    # Health, one name per subsystem.
    check_type = message_factory.GetMessageClass(pool_of_types.FindMessageTypeByName("grpc.health.v1.HealthCheckRequest"))
    for part in ("", "selection", "training", "storage", "engine"):
        check(health.Check(check_type(service=part), timeout=10).status == 1, f"{part or 'the process'} does not serve")
    say("health: every subsystem serves")

    # A pool, and the same request again.
    pool_id = f"python-{uuid.uuid4().hex[:8]}"
    # No training of its own: this client asks for one.
    policy = message("Policy", strategy=number("Strategy", "STRATEGY_ENTROPY"), labels_per_round=100, auto_train=False)
    policy.training.epochs = 1
    policy.training.min_steps = policy.training.max_steps = 3
    policy.gate.max_accuracy_drop = 1.0
    policy.gate.max_calibration_rise = 1.0
    create = message(
        "CreatePoolRequest",
        pool_id=pool_id,
        pool=message("Pool", display_name="From Python", answers=["left", "right"], policy=policy),
        request_id=uuid.uuid4().hex,
    )
    pool = pools.CreatePool(create, timeout=30)
    check(pool.name == f"pools/{pool_id}" and pool.policy.max_labels == 1, f"not the pool asked for: {pool}")
    check(pools.CreatePool(create, timeout=30) == pool, "a retried CreatePool made something else")
    say(f"made {pool.name}")

    # A mistake is told whole.
    details = refused(pools.GetPool, message("GetPoolRequest", name="pools/no-such"), grpc.StatusCode.NOT_FOUND, "NOT_FOUND")
    check("ResourceInfo" in details, f"details: {list(details)}")
    details = refused(
        selection.NextBatch, message("NextBatchRequest", size=-1), grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST"
    )
    violations = details["BadRequest"].field_violations
    named = {violation.field for violation in violations}
    check(named == {"parent", "annotator", "request_id", "size"}, f"violations: {violations}")
    say(f"mistakes: NOT_FOUND with its resource, INVALID_ARGUMENT with {len(violations)} violations at once")

    # Samples: whole ones, one in chunks, one that is no image.
    truth = {}

    def sample(i, split="SPLIT_POOL", **image):
        name, answer = f"s{i:03}", "left" if i % 4 < 2 else "right"
        truth[f"{pool.name}/samples/{name}"] = answer
        made = message(
            "SampleInput", sample_id=name, question="on which side is the bright cell?", group=f"row{i % 16 // 4}",
            split=number("Split", split), metadata={"cell": str(i % 16)},
        )
        made.images.add(**(image or {"data": png(i % 16), "media_type": "image/png"}))
        if split != "SPLIT_POOL":
            made.reference_answer = answer
        return made

    def stream():
        whole = [sample(i) for i in range(POOL_SAMPLES)]
        whole += [sample(100 + i, "SPLIT_VALIDATION") for i in range(HELD_SAMPLES)]
        whole += [sample(200 + i, "SPLIT_TEST") for i in range(HELD_SAMPLES)]
        yield message("AddSamplesRequest", parent=pool.name, samples=message("SampleInputs", samples=whole[:20]))
        yield message("AddSamplesRequest", samples=message("SampleInputs", samples=whole[20:]))
        file = png(5, size=80)
        chunked = sample(300, chunked_bytes=len(file))
        yield message("AddSamplesRequest", samples=message("SampleInputs", samples=[chunked]))
        for at in range(0, len(file), 100):
            yield message("AddSamplesRequest", image_chunk=file[at : at + 100])
        broken = sample(400, data=b"this is no image")
        yield message("AddSamplesRequest", samples=message("SampleInputs", samples=[broken]))

    total = POOL_SAMPLES + 2 * HELD_SAMPLES + 1
    added = pools.AddSamples(stream(), timeout=60)
    check((added.added_count, added.unchanged_count, added.rejected_count) == (total, 0, 1), f"added: {added}")
    check(added.rejected[0].sample_id == "s400" and added.rejected[0].index == total, f"rejected: {added.rejected}")
    again = pools.AddSamples(stream(), timeout=60)
    check((again.added_count, again.unchanged_count) == (0, total), f"added again: {again}")
    say(f"added {total} samples, one in chunks; rejected one: {added.rejected[0].reason}")

    whole = message("GetSampleRequest", name=f"{pool.name}/samples/s005", image_view=number("ImageView", "IMAGE_VIEW_BYTES"))
    stored = pools.GetSample(whole, timeout=30)
    check(stored.images[0].data == png(5) and stored.metadata["cell"] == "5", "the sample came back changed")
    listed, token = [], ""
    while True:
        page = pools.ListSamples(
            message("ListSamplesRequest", parent=pool.name, page_size=10, page_token=token, split=number("Split", "SPLIT_POOL")),
            timeout=30,
        )
        listed += [item.name for item in page.samples]
        token = page.next_page_token
        if not token:
            break
    check(len(listed) == len(set(listed)) == POOL_SAMPLES + 1, f"{len(listed)} samples listed")
    say(f"read one sample back, listed {len(listed)} in pages of 10")

    # A batch, waiting for the first plan; the same request gives the same batch.
    request_id, deadline = uuid.uuid4().hex, time.monotonic() + arguments.timeout
    ask = message(
        "NextBatchRequest", parent=pool.name, annotator="ann", size=LABELS, request_id=request_id,
        image_view=number("ImageView", "IMAGE_VIEW_BYTES"),
    )
    ask.max_wait.seconds = 10
    outcome = "NextBatchResponse.Outcome"
    while True:
        batch = selection.NextBatch(ask, timeout=60)
        if batch.queries or time.monotonic() > deadline:
            break
        check(batch.outcome == number(outcome, "OUTCOME_PLANNING"), f"{name_of(outcome, batch.outcome)}: {batch.reason}")
    check(len(batch.queries) == LABELS, f"{len(batch.queries)} queries: {batch.reason}")
    check([q.rank for q in batch.queries] == sorted(q.rank for q in batch.queries), "not in rank order")
    check(all(q.images[0].data.startswith(b"\x89PNG") for q in batch.queries), "a query without its image")
    check(selection.NextBatch(ask, timeout=60) == batch, "a retried NextBatch gave another batch")
    first = batch.queries[0]
    say(
        f"batch of {len(batch.queries)}, {name_of(outcome, batch.outcome)}, fallback {name_of('Fallback', batch.fallback)}; "
        f"first: {first.sample.rsplit('/', 1)[1]}, {name_of('Arm', first.arm)}, {first.uncertainty.total:.3f} nats"
    )
    renewed = selection.RenewLease(message("RenewLeaseRequest", name=batch.lease.name, token=batch.lease.token), timeout=30)
    check(renewed.expire_time.ToMicroseconds() >= batch.lease.expire_time.ToMicroseconds(), "renewed to an earlier end")
    released = selection.ReleaseQueries(
        message("ReleaseQueriesRequest", name=batch.lease.name, token=batch.lease.token,
                samples=[batch.queries[-1].sample], reason="one too many"),
        timeout=30,
    )
    check(released.released_count == 1, f"{released.released_count} released")
    leases = selection.ListLeases(message("ListLeasesRequest", parent=pool.name), timeout=30).leases
    check(len(leases) == 1 and leases[0].name == batch.lease.name and not leases[0].token, f"leases: {leases}")
    say("renewed the lease, released one query, saw the lease listed without its token")

    # Labels: answers with reasoning and regions, and a skip.
    submit = message(
        "SubmitLabelsRequest", parent=pool.name, request_id=uuid.uuid4().hex, annotator="ann",
        lease=batch.lease.name, lease_token=batch.lease.token,
    )
    answered = batch.queries[: LABELS - 2]
    for query in answered:
        label = submit.labels.add(client_label_id=f"label-{query.sample.rsplit('/', 1)[1]}", sample=query.sample)
        cell = int(query.sample.rsplit("s", 1)[1]) % 16
        label.answer.text = truth[query.sample]
        label.answer.reasoning_steps.append(f"the bright cell is in column {cell % 4 + 1} of 4")
        label.answer.regions.add(x_min=cell % 4 / 4, y_min=cell // 4 / 4, x_max=(cell % 4 + 1) / 4, y_max=(cell // 4 + 1) / 4)
        label.lead_time.seconds = 3
        label.seen_version = query.version
    skipped = batch.queries[LABELS - 2]
    submit.labels.add(client_label_id="skip-1", sample=skipped.sample).skip.reason = "too dark for me"
    reply = labels.SubmitLabels(submit, timeout=30)
    codes = [name_of("Verdict.Code", verdict.code) for verdict in reply.verdicts]
    check(codes == ["CODE_ACCEPTED"] * (LABELS - 1), f"verdicts: {reply.verdicts}")
    check(labels.SubmitLabels(submit, timeout=30).SerializeToString(deterministic=True)
          == reply.SerializeToString(deterministic=True), "a retried SubmitLabels answered something else")
    other = type(submit).FromString(submit.SerializeToString())
    other.labels[0].answer.text = "right" if truth[answered[0].sample] == "left" else "left"
    refused(labels.SubmitLabels, other, grpc.StatusCode.FAILED_PRECONDITION, "REQUEST_ID_REUSED")
    listed = labels.ListLabels(message("ListLabelsRequest", parent=pool.name, sample=answered[0].sample), timeout=30).labels
    check(len(listed) == 1 and listed[0].answer == submit.labels[0].answer, f"the label came back changed: {listed}")
    say(f"{len(answered)} answers and a skip accepted; the retry was answered the same, other labels under its id refused")

    # A training, and the rounds as they change.
    training = trainings.StartTraining(message("StartTrainingRequest", parent=pool.name, request_id="train-1"), timeout=30)
    check(training.name.startswith(f"{pool.name}/trainings/"), f"training: {training}")
    again = trainings.StartTraining(message("StartTrainingRequest", parent=pool.name, request_id="train-1"), timeout=30)
    check(again.name == training.name, "a retried StartTraining began another")
    watch, seen, token = rounds.WatchRounds(message("WatchRoundsRequest", parent=pool.name), timeout=arguments.timeout), [], ""
    for event in watch:
        token = event.resume_token
        state = name_of("Round.State", event.round.state)
        if (event.round.number, state) not in seen:
            seen.append((event.round.number, state))
            say(f"round {event.round.number}: {state}")
        check(state != "STATE_FAILED", f"round {event.round.number} failed: {event.round.error}")
        if event.round.number == 1 and state == "STATE_DONE":
            break
    watch.cancel()
    check((1, "STATE_DONE") in seen and token, f"seen: {seen}")
    done = trainings.GetTraining(message("GetTrainingRequest", name=training.name), timeout=30)
    check(name_of("Training.State", done.state) == "STATE_SUCCEEDED", f"training: {done}")
    check(done.version == f"{pool.name}/versions/1", f"made {done.version}")
    version = models.GetVersion(message("GetVersionRequest", name=done.version), timeout=30)
    check(version.label_count == len(answered) and version.test.sample_count == HELD_SAMPLES, f"version: {version}")
    say(
        f"{done.version.split('/', 2)[2]} is {name_of('Version.State', version.state)}; "
        f"accuracy on test {version.test.accuracy:.2f}, gate: {version.gate.reasons[0]}"
    )

    metrics = rounds.GetMetrics(message("GetMetricsRequest", name=f"{pool.name}/metrics"), timeout=30)
    answers = sum(c.count for c in metrics.labels if c.kind == number("LabelCount.Kind", "KIND_ANSWER"))
    check(answers == len(answered), f"{answers} answers counted")
    check(metrics.annotators[0].annotator == "ann" and metrics.annotators[0].skip_count == 1, f"{metrics.annotators}")
    check(metrics.rounds[0].version == done.version, f"rounds: {metrics.rounds}")
    say(f"metrics: {answers} answers, {sum(c.count for c in metrics.samples)} samples, {len(metrics.rounds)} rounds")

    # A prediction, by the key of an image the service has.
    predict = message("PredictRequest", parent=pool.name, question="on which side is the bright cell?", reasoning=True)
    predict.images.add(sha256=stored.images[0].sha256)
    predict.images[0].media_type = "image/png"
    prediction = models.Predict(predict, timeout=60)
    check(prediction.answer in ("left", "right"), f"answered {prediction.answer!r}")
    check(abs(sum(a.probability for a in prediction.answers) - 1) < 1e-3, f"probabilities: {prediction.answers}")
    say(f"prediction by {prediction.version.split('/', 2)[2]}: {prediction.answer!r}, {prediction.uncertainty.total:.3f} nats")

    # Back to the base, then the pool goes.
    back = models.Rollback(message("RollbackRequest", parent=pool.name, version=f"{pool.name}/versions/0"), timeout=30)
    check(back.number == 0 and name_of("Version.State", back.state) == "STATE_SERVING", f"rolled back to {back}")
    gone = pools.DeletePool(message("DeletePoolRequest", name=pool.name), timeout=30)
    check(name_of("Pool.State", gone.state) == "STATE_DELETING", f"deleting: {gone}")
    say("rolled back to the base and deleted the pool")
    say("the whole loop holds")


if __name__ == "__main__":
    BEGAN = time.monotonic()
    try:
        main()
    except AssertionError as fault:
        print(f"FAILED: {fault}", file=sys.stderr)
        sys.exit(1)
    except grpc.RpcError as fault:
        print(f"FAILED: {fault.code()}: {fault.details()}", file=sys.stderr)
        sys.exit(1)
