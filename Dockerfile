# syntax=docker/dockerfile:1

# The program for a container: one file on a base with nothing but certificates,
# no shell, and a user who is not root.

FROM rust:1.95-bookworm AS build
WORKDIR /src

# Dependencies first, in a layer of their own: they change seldom, and take most
# of the time.
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
# Pages are made from these.
COPY askama.toml README.md ./
COPY docs docs
COPY benches benches
COPY examples examples
# What was built above is older than no file of the program.
RUN touch src/main.rs src/lib.rs \
    && cargo build --release --locked --bin lockable

FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /src/target/release/lockable /usr/local/bin/lockable
COPY LICENSE-MIT LICENSE-APACHE /usr/share/doc/lockable/

ENV LOCKABLE_LISTEN=0.0.0.0:8080 \
    LOCKABLE_ADMIN_LISTEN=0.0.0.0:9090 \
    LOCKABLE_LOG_FORMAT=json
EXPOSE 8080 9090
# Without settings accounts are kept in /home/nonroot, and so is the first token
# (lockable.db.first-token; docker cp has it out), so a volume belongs there:
# without one they go with the container, and on a read-only root it does not start.
# A new volume elsewhere belongs to root, and cannot be written.

HEALTHCHECK --interval=5s --timeout=3s --start-period=10s CMD ["/usr/local/bin/lockable", "healthcheck"]
ENTRYPOINT ["/usr/local/bin/lockable"]
CMD ["serve"]
