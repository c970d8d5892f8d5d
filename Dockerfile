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
EXPOSE 9464 9465
ENTRYPOINT ["topup-worker"]
CMD ["run"]
