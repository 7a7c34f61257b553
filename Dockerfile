# syntax=docker/dockerfile:1

# The container image: one binary on a minimal base with certificates, without a shell, run
# by a user who is not root.

FROM rust:1.95-bookworm AS build
WORKDIR /src

# Build the dependencies first, in a separate layer: they rarely change and take most of the
# build time.
COPY Cargo.toml Cargo.lock ./
RUN mkdir -p src benches examples/simulate \
    && echo 'fn main() {}' >src/main.rs \
    && cp src/main.rs benches/compare.rs \
    && cp src/main.rs benches/growth.rs \
    && cp src/main.rs benches/handover.rs \
    && cp src/main.rs benches/instructions.rs \
    && cp src/main.rs benches/scripts.rs \
    && cp src/main.rs benches/tenants.rs \
    && cp src/main.rs benches/waiters.rs \
    && cp src/main.rs examples/simulate/main.rs \
    && touch src/lib.rs \
    && cargo build --release --locked --bin lockable \
    && rm -rf src benches examples

COPY src src
COPY lua lua
# The pages include these.
COPY askama.toml README.md ./
COPY docs docs
COPY benches benches
COPY examples examples
# Cargo must see the sources as newer than the dummy build above.
RUN touch src/main.rs src/lib.rs \
    && cargo build --release --locked --bin lockable

FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /src/target/release/lockable /usr/local/bin/lockable
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
