use askama::Template;

use super::{
    browser::Visitor,
    error::Trouble,
    layout::{Section, Shell},
    session::{Member, NoMember},
    template::Page,
};

#[derive(Template)]
#[template(path = "home.html")]
pub(super) struct HomePage {
    shell: Shell,
    origin: String,
}

/// `GET /`: what this is, in one screen.
pub(super) async fn home(visitor: Visitor, member: Result<Member, NoMember>) -> Result<Page<HomePage>, Trouble> {
    let shell = match &member {
        Ok(member) => member.shell("Locks over HTTPS", Section::Elsewhere),
        Err(_) => Shell::of_anybody("Locks over HTTPS"),
    };
    Ok(Page(HomePage { shell, origin: visitor.origin }))
}
