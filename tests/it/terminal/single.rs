//! Cases without an oracle: the output of a wait, and the terminal after a loss.

use super::{
    folder::{self, Folder},
    session::{Session, Start},
    wrapper::{Server, Wrapper, program},
};

/// A bash in a terminal, in which a function `run` is `lockable run`.
struct Terminal {
    server: Server,
    session: Session,
    folder: Folder,
}

impl Terminal {
    async fn start() -> Self {
        let server = Server::start().await;
        let case = folder::plain();
        let wrapper = Wrapper::lockable(&server, case).await;
        let folder = wrapper.folder(case, &server);
        let mut session = Session::start(Start {
            words: &folder::words(case),
            folder: folder.path(),
            variables: &wrapper.variables(&folder),
            has_prompt: true,
            has_terminal: true,
        })
        .await;
        session.type_line(&format!("run() {{ {} run \"$@\"; }}", program()));
        session.settled("0").await;
        Self { server, session, folder }
    }
}

#[tokio::test]
async fn wait_shows_holder_and_position() {
    let mut terminal = Terminal::start().await;
    let acquire = "/v1/acquire/busy?owner=another&note=on%20purpose";
    assert_eq!(terminal.server.client.get(acquire).await.json["response"], true);
    let session = &mut terminal.session;
    session.type_line("TERM=vt100 run busy -- true");
    session.shows("waiting for busy, held by another (on purpose) since").await;
    session.shows("position 1 of 1, held by another (on").await;
    session.type_text("\x03");
    session.settled("130").await;
}

#[tokio::test]
async fn command_reads_typed_input() {
    let mut terminal = Terminal::start().await;
    let session = &mut terminal.session;
    session.type_line("run typed -- sh -c 'stty -echo; exec sed s/^/read-/'");
    session.type_text("one\n");
    session.shows("read-one").await;
    session.type_text("\x1a");
    session.settled("148").await;
    session.type_line("fg");
    session.lent().await;
    session.type_text("two\n\x04");
    session.shows("read-two").await;
    session.settled("0").await;
}

#[tokio::test]
async fn loss_restores_terminal_settings() {
    let mut terminal = Terminal::start().await;
    let session = &mut terminal.session;
    session.type_line("run --lease 2s lost -- sh -c 'stty raw -echo; echo be\"\"gun; exec sleep 60'; stty -a");
    session.shows("begun").await;
    assert_eq!(terminal.server.client.request("DELETE", "/v1/locks/lost", &[]).await.json["response"], true);
    session.settled("0").await;
    let screen = session.screen();
    let settings = screen.rsplit("begun").next().unwrap();
    for setting in ["icanon", "echo", "isig"] {
        assert!(settings.split_whitespace().any(|word| word == setting), "{setting}:\n{screen}");
    }
}

#[tokio::test]
async fn command_that_handles_ctrl_c_continues() {
    let mut terminal = Terminal::start().await;
    let session = &mut terminal.session;
    session.type_line("run kept -- ./job patient");
    session.shows("begun").await;
    session.type_text("\x03");
    session.shows("^C").await;
    terminal.folder.finish(0);
    // The exit code shows that the command got the signal.
    session.settled("100").await;
}

#[tokio::test]
async fn pager_reads_from_pipeline() {
    let mut terminal = Terminal::start().await;
    let session = &mut terminal.session;
    session.type_line("TERM=vt100 LESS= run paged -- sh -c 'seq 200000' | TERM=vt100 less");
    session.shows("\n23").await;
    session.type_text("q");
    session.settled("0").await;
}
