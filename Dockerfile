# syntax=docker/dockerfile:1

# The container image: one binary on a minimal base with certificates, without a shell, run
# by a user who is not root.

FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
# The caches keep compiled dependencies between builds; a changed source recompiles only the
# workspace.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked --bin lockable \
    && cp target/release/lockable /usr/local/bin/lockable

FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /usr/local/bin/lockable /usr/local/bin/lockable
COPY LICENSE-MIT LICENSE-APACHE /usr/share/doc/lockable/

ENV LOCKABLE_LISTEN=0.0.0.0:8080 \
    LOCKABLE_ADMIN_LISTEN=0.0.0.0:9090 \
    LOCKABLE_LOG_FORMAT=json
EXPOSE 8080 9090
# By default the accounts and the first token (lockable.db.first-token; fetch it with
# docker cp) are in /home/nonroot. Mount a volume there: without one the accounts are
# deleted with the container, and with a read-only root the server does not start. A new
# volume at another path belongs to root and is not writable.

HEALTHCHECK --interval=5s --timeout=3s --start-period=10s CMD ["/usr/local/bin/lockable", "healthcheck"]
ENTRYPOINT ["/usr/local/bin/lockable"]
CMD ["serve"]
