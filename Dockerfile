FROM rust:1-slim-bookworm AS build
WORKDIR /build
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/build/target \
    cargo build --release --locked --bin topup-worker \
    && cp target/release/topup-worker /usr/local/bin/topup-worker

FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin topup \
    && install --directory --owner=topup --group=topup /data
COPY --from=build /usr/local/bin/topup-worker /usr/local/bin/topup-worker
USER topup
WORKDIR /data
ENV HTTP_ADDR=127.0.0.1:9464
EXPOSE 9464 9465
# The image has no HTTP client. A worker that waits for Redis or the database is healthy: a restart would not help it.
SHELL ["bash", "-c"]
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s CMD exec 3<>"/dev/tcp/127.0.0.1/${HTTP_ADDR##*:}" \
    && printf 'GET /healthz HTTP/1.0\r\n\r\n' >&3 && read -r _ code _ <&3 && [ "$code" = 200 ]
ENTRYPOINT ["topup-worker"]
CMD ["run"]
