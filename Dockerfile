# syntax=docker/dockerfile:1
# The service in an image: `docker build -t active-vlm .`
# Runs as a user without rights. With no database set it runs a Postgres of its own under /var/lib/active-vlm.

# --- libtorch, from the same wheels as on a developer's machine; only what a CPU needs of it stays -----------------
FROM python:3.11-slim-bookworm AS libtorch
RUN pip install --no-cache-dir --no-deps --no-compile --target /opt/libtorch \
        torch==2.11.0 'nvidia-cuda-cupti==13.0.*' 'nvidia-cuda-runtime==13.0.*'
# The folders keep their places: the libraries find one another relative to themselves.
RUN mkdir -p /runtime/torch/lib /runtime/nvidia/cu13/lib \
    && cd /opt/libtorch \
    && cp torch/lib/libtorch_cpu.so torch/lib/libc10.so torch/lib/libgomp.so.1 /runtime/torch/lib/ \
    && cp nvidia/cu13/lib/libcupti.so.13 nvidia/cu13/lib/libcudart.so.13 /runtime/nvidia/cu13/lib/

# --- the binary ----------------------------------------------------------------------------------------------------
FROM rust:1.95-bookworm AS build
COPY --from=libtorch /opt/libtorch /opt/libtorch
# The build writes this path into the binary; the last stage has the libraries at the same place.
ENV LIBTORCH=/opt/libtorch/torch SQLX_OFFLINE=true
WORKDIR /src
COPY . .
# The caches keep the dependencies, torch-sys above all, from one build to the next; the binary is taken out of them.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --locked --release --bin active-vlm \
    && cp target/release/active-vlm /usr/local/bin/active-vlm

# --- what runs -----------------------------------------------------------------------------------------------------
FROM debian:bookworm-slim
# Postgres' server programs for the private cluster; the package must not start a cluster of its own.
RUN mkdir -p /etc/postgresql-common \
    && echo 'create_main_cluster = false' > /etc/postgresql-common/createcluster.conf \
    && apt-get update \
    && apt-get install -y --no-install-recommends -o Dpkg::Options::=--force-confold \
        ca-certificates libstdc++6 postgresql-15 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --home-dir /var/lib/active-vlm --create-home active-vlm
COPY --from=libtorch /runtime /opt/libtorch
COPY --from=build /usr/local/bin/active-vlm /usr/local/bin/active-vlm
COPY models /usr/share/active-vlm/models

# Inside a container the outside is everyone who can reach its ports: publish them with care, or set grpc.tls.
ENV ACTIVE_VLM__STATE_DIR=/var/lib/active-vlm/state \
    ACTIVE_VLM__ENGINE__MODEL_DIR=/usr/share/active-vlm/models/toy-base \
    ACTIVE_VLM__GRPC__LISTEN=0.0.0.0:50051 \
    ACTIVE_VLM__HTTP__LISTEN=0.0.0.0:9464 \
    ACTIVE_VLM__LOG__FORMAT=json
WORKDIR /var/lib/active-vlm
USER active-vlm
VOLUME /var/lib/active-vlm
EXPOSE 50051 9464
STOPSIGNAL SIGTERM
# Ready, not merely alive: every part answers. Bash speaks the HTTP, as the image has no curl.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/9464 && printf 'GET /readyz HTTP/1.0\\r\\n\\r\\n' >&3 && head -n 1 <&3 | grep -q ' 200 '"]
ENTRYPOINT ["active-vlm"]
CMD ["serve"]
