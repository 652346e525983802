use std::sync::atomic::AtomicI64;

use super::*;
use crate::backing::MemoryBacking;
use crate::limits::{FAILURES_PER_USER_AND_PEER_MAX, SESSIONS_PER_USER_MAX};
use crate::role::Role;
use crate::rules::Rules;
use crate::tokens::NewToken;
use crate::users::{NewUser, UserChange};

const PEER: Option<IpAddr> = Some(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST));

struct World {
    backing: Arc<MemoryBacking>,
    time: Arc<AtomicI64>,
}

impl World {
    fn new() -> World {
        World {
            backing: Arc::default(),
            time: Arc::new(AtomicI64::new(1_000_000)),
        }
    }

    fn open(&self) -> Access {
        let time = self.time.clone();
        Access::open(
            self.backing.clone(),
            AccessOptions {
                cost: Cost::Least,
                session_idle_seconds: SESSION_IDLE_SECONDS,
                now: Arc::new(move || time.load(Ordering::SeqCst)),
            },
        )
        .unwrap()
    }

    fn pass(&self, seconds: i64) {
        self.time.fetch_add(seconds, Ordering::SeqCst);
    }
}

fn user(name: &str, role: Role) -> NewUser {
    NewUser {
        name: name.into(),
        password: format!("{name}-password"),
        role: Some(role),
        rules: Rules::default(),
    }
}

fn login(access: &Access, name: &str) -> Principal {
    access
        .authenticate_password(name, &format!("{name}-password"), PEER)
        .unwrap()
}

#[test]
fn users_tokens_and_sessions_survive_a_restart() {
    let world = World::new();
    let (token, session) = {
        let access = world.open();
        assert!(!access.has_users());
        access.add_user(user("ann", Role::Admin), true).unwrap();
        assert!(access.has_users());
        let ann = login(&access, "ann");
        let new = NewToken {
            name: "ci".into(),
            role: Some(Role::Operator),
            rules: Rules::default(),
            expires: None,
        };
        let (view, token) = access.add_token(&ann, new).unwrap();
        assert!(!serde_json::to_string(&view).unwrap().contains(&token));
        (token, access.open_session(&ann).unwrap().secret)
    };
    let access = world.open();
    assert_eq!(login(&access, "ann").role(), Role::Admin);
    let by_token = access.authenticate_token(&token, PEER).unwrap();
    assert_eq!((by_token.name(), by_token.role()), ("ann", Role::Operator));
    assert_eq!(access.session(&session).unwrap().name(), "ann");
    let kept = world.backing.load().unwrap();
    for (_, value) in kept {
        let text = String::from_utf8(value).unwrap();
        assert!(
            !text.contains("ann-password") && !text.contains(&token) && !text.contains(&session)
        );
    }
}

#[test]
fn a_wrong_login_says_nothing_and_guessing_is_slowed() {
    let world = World::new();
    let access = world.open();
    access.add_user(user("ann", Role::Admin), true).unwrap();
    let wrong = access.authenticate_password("ann", "no", PEER).unwrap_err();
    let unknown = access.authenticate_password("bob", "no", PEER).unwrap_err();
    assert_eq!(wrong.to_string(), unknown.to_string());
    for _ in 1..FAILURES_PER_USER_AND_PEER_MAX {
        access.authenticate_password("ann", "no", PEER).unwrap_err();
    }
    let waits = access
        .authenticate_password("ann", "ann-password", PEER)
        .unwrap_err();
    assert_eq!(waits.code(), "access.too-many-attempts");
    assert!(
        access
            .authenticate_password("ann", "ann-password", Some([10, 1, 1, 1].into()))
            .is_ok()
    );
    world.pass(60);
    login(&access, "ann");
}

#[test]
fn only_the_first_user_needs_no_login_and_must_be_admin() {
    let access = World::new().open();
    assert_eq!(
        access
            .add_user(user("v", Role::Viewer), true)
            .unwrap_err()
            .code(),
        "access.first-user-admin"
    );
    access.add_user(user("ann", Role::Admin), true).unwrap();
    assert_eq!(
        access
            .add_user(user("eve", Role::Admin), true)
            .unwrap_err()
            .code(),
        "access.login-needed"
    );
    access.add_user(user("bob", Role::Viewer), false).unwrap();
    assert_eq!(
        access
            .add_user(user("bob", Role::Viewer), false)
            .unwrap_err()
            .code(),
        "access.user-exists"
    );
    for bad in ["", "a/b", "a b", "local", "x\n", &"y".repeat(65)] {
        let refused = access.add_user(user(bad, Role::Viewer), false).unwrap_err();
        assert_eq!(refused.code(), "access.bad-user-name", "{bad:?}");
    }
}

#[test]
fn many_first_users_at_once_make_one() {
    let access = World::new().open();
    let made = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|n| {
                let access = &access;
                scope.spawn(move || {
                    access
                        .add_user(user(&format!("u{n}"), Role::Admin), true)
                        .is_ok()
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|t| t.join().unwrap())
            .filter(|ok| *ok)
            .count()
    });
    assert_eq!(made, 1);
    assert_eq!(access.users().len(), 1);
}

#[test]
fn a_removed_or_changed_user_loses_what_it_had() {
    let world = World::new();
    let access = world.open();
    let local = Principal::local();
    assert!(access.current(&local).is_some());
    access.add_user(user("ann", Role::Admin), true).unwrap();
    assert!(access.current(&local).is_none());
    access.add_user(user("bob", Role::Operator), false).unwrap();
    let bob = login(&access, "bob");
    let session = access.open_session(&bob).unwrap().secret;
    let new = NewToken {
        name: "t".into(),
        role: None,
        rules: Rules::default(),
        expires: None,
    };
    let (_, token) = access.add_token(&bob, new).unwrap();
    let epoch = access.epoch();
    access
        .change_user(
            "bob",
            UserChange {
                role: Some(Role::Viewer),
                ..UserChange::default()
            },
        )
        .unwrap();
    assert!(access.epoch() > epoch);
    assert_eq!(access.current(&bob).unwrap().role(), Role::Viewer);
    assert_eq!(
        access.authenticate_token(&token, PEER).unwrap().role(),
        Role::Viewer
    );
    access
        .change_user(
            "bob",
            UserChange {
                password: Some("another-one".into()),
                ..UserChange::default()
            },
        )
        .unwrap();
    assert!(access.session(&session).is_none());
    assert!(
        access
            .authenticate_password("bob", "bob-password", PEER)
            .is_err()
    );
    assert!(
        access
            .authenticate_password("bob", "another-one", PEER)
            .is_ok()
    );
    // Less of what it had before is other rights; the same again are the same.
    let before = access.authenticate_token(&token, PEER).unwrap();
    let change = |list: &str| UserChange {
        rules: Some(serde_json::from_str(list).unwrap()),
        ..UserChange::default()
    };
    access
        .change_user("bob", change(r#"{"subscribe":["a/#"]}"#))
        .unwrap();
    let after = access.current(&before).unwrap();
    assert!(!after.same_rights(&before) && !before.same_rights(&after));
    access.change_user("bob", change("{}")).unwrap();
    assert!(access.current(&before).unwrap().same_rights(&before));
    access.remove_user("bob").unwrap();
    assert!(access.authenticate_token(&token, PEER).is_err());
    assert!(
        access
            .authenticate_password("bob", "another-one", PEER)
            .is_err()
    );
    assert!(access.current(&bob).is_none());
    // Whoever gets the name next does not share it with the one before.
    access.add_user(user("bob", Role::Viewer), false).unwrap();
    assert!(access.authenticate_token(&token, PEER).is_err());
    assert!(access.tokens(&Principal::local()).is_empty());
    assert!(
        access
            .authenticate_password("bob", "another-one", PEER)
            .is_err()
    );
    assert_eq!(
        access.remove_user("ann").unwrap_err().code(),
        "access.last-admin"
    );
    assert_eq!(
        access
            .change_user(
                "ann",
                UserChange {
                    role: Some(Role::Viewer),
                    ..UserChange::default()
                }
            )
            .unwrap_err()
            .code(),
        "access.last-admin"
    );
}

#[test]
fn sessions_slide_and_end() {
    let world = World::new();
    let access = world.open();
    access.add_user(user("ann", Role::Admin), true).unwrap();
    let secret = access.open_session(&login(&access, "ann")).unwrap().secret;
    for _ in 0..4 {
        world.pass(SESSION_IDLE_SECONDS - 60);
        assert!(access.session(&secret).is_some());
    }
    world.pass(SESSION_IDLE_SECONDS + 1);
    assert!(access.session(&secret).is_none());
    let secret = access.open_session(&login(&access, "ann")).unwrap().secret;
    access.close_session(&secret).unwrap();
    assert!(access.session(&secret).is_none());
    let secret = access.open_session(&login(&access, "ann")).unwrap().secret;
    for _ in 0..SESSION_AGE_SECONDS_MAX / 3600 {
        world.pass(3600);
        access.session(&secret);
    }
    assert!(access.session(&secret).is_none(), "however much it is used");
}

#[test]
fn what_is_connected_ends_with_what_it_was_let_in_by() {
    let world = World::new();
    let access = world.open();
    access.add_user(user("ann", Role::Admin), true).unwrap();
    let by_password = login(&access, "ann");
    let open = || {
        let secret = access.open_session(&login(&access, "ann")).unwrap().secret;
        (access.session(&secret).unwrap(), secret)
    };
    let (here, secret) = open();
    let (there, _) = open();
    let epoch = access.epoch();
    access.close_session(&secret).unwrap();
    assert!(access.epoch() > epoch, "or nobody would look");
    assert!(access.current(&here).is_none(), "logged out");
    assert!(access.current(&there).is_some(), "another session goes on");
    assert!(access.current(&by_password).is_some());
    let change = UserChange {
        role: Some(Role::Admin),
        ..UserChange::default()
    };
    access.change_user("ann", change).unwrap();
    assert!(access.current(&by_password).is_some(), "the same password");
    let change = UserChange {
        password: Some("another-one".into()),
        ..UserChange::default()
    };
    access.change_user("ann", change).unwrap();
    assert!(access.current(&there).is_none());
    assert!(access.current(&by_password).is_none(), "the old password");
}

#[test]
fn the_epoch_moves_when_something_expires() {
    let world = World::new();
    let access = world.open();
    access.add_user(user("ann", Role::Admin), true).unwrap();
    let ann = login(&access, "ann");
    let new = NewToken {
        name: "t".into(),
        role: None,
        rules: Rules::default(),
        expires: Some((access.now)() + 10),
    };
    access.add_token(&ann, new).unwrap();
    access.open_session(&ann).unwrap();
    let moves = || {
        let epoch = access.epoch();
        access.expire().unwrap();
        access.epoch() > epoch
    };
    world.pass(9);
    assert!(!moves());
    world.pass(1);
    assert!(moves());
    assert!(!moves(), "told once");
    world.pass(SESSION_IDLE_SECONDS);
    assert_eq!(world.backing.load().unwrap().len(), 3);
    assert!(moves());
    assert_eq!(
        world.backing.load().unwrap().len(),
        2,
        "the session is forgotten"
    );
}

#[test]
fn a_live_connection_keeps_its_session() {
    let world = World::new();
    let access = world.open();
    access.add_user(user("ann", Role::Admin), true).unwrap();
    let secret = access.open_session(&login(&access, "ann")).unwrap().secret;
    let principal = access.session(&secret).unwrap();
    for _ in 0..3 {
        world.pass(SESSION_IDLE_SECONDS - 60);
        assert!(access.current(&principal).is_some());
    }
    // What was only remembered is written at the next request.
    assert!(access.session(&secret).is_some());
    let access = world.open();
    world.pass(SESSION_IDLE_SECONDS - 60);
    assert!(access.session(&secret).is_some());
}

#[test]
fn nobody_ends_the_sessions_of_others_by_opening_many() {
    let world = World::new();
    let access = world.open();
    access.add_user(user("ann", Role::Admin), true).unwrap();
    access.add_user(user("eve", Role::Viewer), false).unwrap();
    let of = |name| access.open_session(&login(&access, name)).unwrap().secret;
    let (ann, eve) = (of("ann"), of("eve"));
    world.pass(1);
    for _ in 0..SESSIONS_PER_USER_MAX {
        of("eve");
    }
    assert!(access.session(&ann).is_some());
    assert!(access.session(&eve).is_none());
    assert_eq!(
        access.state.lock().sessions.len(),
        SESSIONS_PER_USER_MAX + 1
    );
}

#[test]
fn a_token_that_fails_locks_nobody_out() {
    let world = World::new();
    let access = world.open();
    access.add_user(user("ann", Role::Admin), true).unwrap();
    let (_, token) = access
        .add_token(&login(&access, "ann"), token(None, None))
        .unwrap();
    // A program that repeats a token that was revoked, on a machine where somebody mistypes a password.
    for _ in 0..100 {
        let refused = access.authenticate_token("bbt_x_y", PEER).unwrap_err();
        assert_eq!(refused.code(), "access.refused");
    }
    access.authenticate_password("ann", "no", PEER).unwrap_err();
    access.authenticate_token(&token, PEER).unwrap();
    login(&access, "ann");
    let counts = access.login_counts();
    assert_eq!((counts.failed_tokens, counts.failed_passwords), (100, 1));
    assert_eq!((counts.lock_outs, counts.refused), (0, 0));
}

#[test]
fn guesses_made_at_once_count_as_those_made_in_a_row() {
    let access = World::new().open();
    access.add_user(user("ann", Role::Admin), true).unwrap();
    let refused = std::thread::scope(|scope| {
        let guess = |n: usize| {
            let access = &access;
            move || {
                let wrong = format!("guess-{n}");
                access
                    .authenticate_password("ann", &wrong, PEER)
                    .unwrap_err()
            }
        };
        let threads: Vec<_> = (0..64).map(|n| scope.spawn(guess(n))).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .filter(|error| error.code() == "access.refused")
            .count()
    });
    assert_eq!(refused, FAILURES_PER_USER_AND_PEER_MAX as usize);
    let counts = access.login_counts();
    assert_eq!(counts.failed_passwords, refused as u64);
    assert_eq!((counts.lock_outs, counts.refused), (1, 64 - refused as u64));
}

#[test]
fn right_passwords_at_once_are_all_accepted_beside_earlier_failures() {
    let access = World::new().open();
    access.add_user(user("ann", Role::Admin), true).unwrap();
    for n in 1..FAILURES_PER_USER_AND_PEER_MAX {
        let wrong = format!("guess-{n}");
        access
            .authenticate_password("ann", &wrong, PEER)
            .unwrap_err();
    }
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| login(&access, "ann"));
        }
    });
}

#[test]
fn failed_logins_are_logged_without_what_was_typed() {
    let world = World::new();
    let access = world.open();
    access.add_user(user("ann", Role::Admin), true).unwrap();
    let written = Written::default();
    let subscriber = tracing_subscriber::fmt()
        .with_writer(written.clone())
        .with_ansi(false)
        .finish();
    tracing::subscriber::with_default(subscriber, || {
        access
            .authenticate_password("hunter2-as-name", "no", PEER)
            .unwrap_err();
        for _ in 0..FAILURES_PER_USER_AND_PEER_MAX {
            let wrong = access.authenticate_password("ann", "hunter2-typed", PEER);
            wrong.unwrap_err();
        }
        access
            .authenticate_password("ann", "hunter2-typed", PEER)
            .unwrap_err();
        world.pass(1);
        access
            .authenticate_token("bbt_x_hunter2-token", PEER)
            .unwrap_err();
    });
    let text = String::from_utf8(written.0.lock().clone()).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        lines.len(),
        FAILURES_PER_USER_AND_PEER_MAX as usize + 2,
        "{text}"
    );
    assert!(lines[0].contains("user=\"(unknown)\""), "{text}");
    assert!(lines[1].contains("user=\"ann\""), "{text}");
    assert!(lines[1].contains("peer=127.0.0.1"), "{text}");
    let locked = lines[FAILURES_PER_USER_AND_PEER_MAX as usize];
    assert!(locked.contains("have to wait"), "{text}");
    assert!(!text.contains("hunter2"), "{text}");
}

#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Written {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> tracing_subscriber::fmt::MakeWriter<'a> for Written {
    type Writer = Written;

    fn make_writer(&'a self) -> Written {
        self.clone()
    }
}

#[test]
fn a_session_that_is_logged_out_while_it_is_extended_stays_logged_out() {
    /// Lets a logout run while a session's new end is being written.
    #[derive(Default)]
    struct Slow {
        inner: MemoryBacking,
        logout: Mutex<Option<Box<dyn FnOnce() + Send>>>,
    }
    impl Backing for Slow {
        fn load(&self) -> Result<Vec<(Vec<u8>, Vec<u8>)>, Error> {
            self.inner.load()
        }
        fn put(&self, key: &[u8], value: &[u8]) -> Result<(), Error> {
            if let Some(logout) = self.logout.lock().take() {
                let thread = std::thread::spawn(logout);
                // Without the fix it is over in no time; with it, it waits for this write.
                for _ in 0..50 {
                    if thread.is_finished() {
                        break;
                    }
                    std::thread::park_timeout(std::time::Duration::from_millis(10));
                }
            }
            self.inner.put(key, value)
        }
        fn delete(&self, key: &[u8]) -> Result<(), Error> {
            self.inner.delete(key)
        }
    }
    let world = World::new();
    let backing = Arc::new(Slow::default());
    let open = || {
        let time = world.time.clone();
        let options = AccessOptions {
            cost: Cost::Least,
            session_idle_seconds: SESSION_IDLE_SECONDS,
            now: Arc::new(move || time.load(Ordering::SeqCst)),
        };
        Arc::new(Access::open(backing.clone(), options).unwrap())
    };
    let access = open();
    access.add_user(user("ann", Role::Admin), true).unwrap();
    let secret = access.open_session(&login(&access, "ann")).unwrap().secret;
    world.pass(SESSION_SAVE_SECONDS);
    let over = Arc::new(AtomicBool::new(false));
    let logout = {
        let (access, secret, over) = (access.clone(), secret.clone(), over.clone());
        move || {
            access.close_session(&secret).unwrap();
            over.store(true, Ordering::SeqCst);
        }
    };
    *backing.logout.lock() = Some(Box::new(logout));
    access.session(&secret);
    while !over.load(Ordering::SeqCst) {
        std::thread::park_timeout(std::time::Duration::from_millis(1));
    }
    assert!(access.session(&secret).is_none());
    assert!(
        open().session(&secret).is_none(),
        "it came back at the start"
    );
}

fn token(role: Option<Role>, expires: Option<i64>) -> NewToken {
    NewToken {
        name: "t".into(),
        role,
        rules: Rules::default(),
        expires,
    }
}

#[test]
fn a_token_with_less_than_its_user_manages_only_itself() {
    let world = World::new();
    let access = world.open();
    access.add_user(user("ann", Role::Admin), true).unwrap();
    let ann = login(&access, "ann");
    let end = (access.now)() + 10;
    let narrow = |text: &str| NewToken {
        rules: serde_json::from_str(text).unwrap(),
        ..token(None, None)
    };
    let (full, _) = access.add_token(&ann, token(None, None)).unwrap();
    for new in [
        token(None, Some(end)),
        token(Some(Role::Operator), None),
        narrow(r#"{"publish":["meter/#"],"subscribe":["meter/#"],"read":["stream:meter"]}"#),
    ] {
        let (view, text) = access.add_token(&ann, new).unwrap();
        let limited = access.authenticate_token(&text, PEER).unwrap();
        assert!(limited.require_user_management().is_err());
        let seen = access.tokens(&limited);
        assert_eq!(seen.iter().map(|t| &t.id).collect::<Vec<_>>(), [&view.id]);
        let refused = access.remove_token(&limited, &full.id).unwrap_err();
        assert_eq!(refused.code(), "access.unknown-token");
        access.remove_token(&limited, &view.id).unwrap();
        assert!(access.current(&limited).is_none());
    }
    let widened = NewToken {
        role: Some(Role::Admin),
        ..narrow(r##"{"publish":["#"]}"##)
    };
    let refused = access.add_token(&ann, widened).unwrap_err();
    assert_eq!(refused.code(), "access.admin-with-rules");
}

#[test]
fn roles_default_to_the_least_and_admins_have_no_rules() {
    let access = World::new().open();
    let new = |name: &str, rules: &str| NewUser {
        role: None,
        rules: serde_json::from_str(rules).unwrap(),
        ..user(name, Role::Viewer)
    };
    let restricted = r#"{"publish":["meter/#"]}"#;
    let refused = access.add_user(new("ann", restricted), true).unwrap_err();
    assert_eq!(refused.code(), "access.admin-with-rules");
    let ann = access.add_user(new("ann", "{}"), true).unwrap();
    assert_eq!(ann.role, Role::Admin, "the first user");
    let bob = access.add_user(new("bob", restricted), false).unwrap();
    assert_eq!(bob.role, Role::Viewer);
    let to_admin = UserChange {
        role: Some(Role::Admin),
        ..UserChange::default()
    };
    let refused = access.change_user("bob", to_admin.clone()).unwrap_err();
    assert_eq!(refused.code(), "access.admin-with-rules");
    let whole = UserChange {
        rules: Some(Rules::default()),
        ..to_admin
    };
    assert_eq!(access.change_user("bob", whole).unwrap().role, Role::Admin);
}

#[test]
fn a_token_is_at_most_its_user_and_expires() {
    let world = World::new();
    let access = world.open();
    access.add_user(user("ann", Role::Admin), true).unwrap();
    access.add_user(user("bob", Role::Operator), false).unwrap();
    let bob = login(&access, "bob");
    let new = |role, expires| NewToken {
        name: "t".into(),
        role,
        rules: Rules::default(),
        expires,
    };
    assert_eq!(
        access
            .add_token(&bob, new(Some(Role::Admin), None))
            .unwrap_err()
            .code(),
        "access.role-needed"
    );
    // Who sits at a node without users has no name that a token could be of.
    assert_eq!(
        access
            .add_token(&Principal::local(), new(None, None))
            .unwrap_err()
            .code(),
        "access.token-needs-user"
    );
    let end = (access.now)() + 10;
    let narrow = NewToken {
        rules: serde_json::from_str(r#"{"publish":["meter/#"]}"#).unwrap(),
        ..new(None, Some(end))
    };
    let (view, token) = access.add_token(&bob, narrow).unwrap();
    let by_token = access.authenticate_token(&token, PEER).unwrap();
    assert!(by_token.may_publish("meter/m1", "inbox"));
    assert!(!by_token.may_publish("plant/p1", "inbox"));
    assert_eq!(
        access
            .add_token(&by_token, new(None, None))
            .unwrap_err()
            .code(),
        "access.token-needs-password"
    );
    assert_eq!(
        access.open_session(&by_token).err().unwrap().code(),
        "access.session-needs-password"
    );
    assert_eq!(
        access
            .add_token(&bob, new(None, Some(end - 10)))
            .unwrap_err()
            .code(),
        "access.token-expired"
    );
    assert!(
        access
            .authenticate_token(&format!("{token}x"), PEER)
            .is_err()
    );
    world.pass(10);
    assert!(access.authenticate_token(&token, PEER).is_err());
    assert!(access.current(&by_token).is_none());
    let eve = access
        .add_user(user("eve", Role::Viewer), false)
        .map(|_| login(&access, "eve"))
        .unwrap();
    assert_eq!(
        access.remove_token(&eve, &view.id).unwrap_err().code(),
        "access.unknown-token"
    );
    access.remove_token(&bob, &view.id).unwrap();
    assert!(access.tokens(&Principal::local()).is_empty());
}

#[test]
fn a_backing_that_fails_changes_nothing() {
    struct Full;
    impl Backing for Full {
        fn load(&self) -> Result<Vec<(Vec<u8>, Vec<u8>)>, Error> {
            Ok(Vec::new())
        }
        fn put(&self, _: &[u8], _: &[u8]) -> Result<(), Error> {
            Err(Error::new(Class::Transient, "access.busy"))
        }
        fn delete(&self, _: &[u8]) -> Result<(), Error> {
            Ok(())
        }
    }
    let options = AccessOptions {
        cost: Cost::Least,
        ..AccessOptions::default()
    };
    let access = Access::open(Arc::new(Full), options).unwrap();
    assert!(access.add_user(user("ann", Role::Admin), true).is_err());
    assert!(!access.has_users());
}

#[test]
fn damaged_records_are_named_not_skipped() {
    let world = World::new();
    world.backing.put(b"user/ann", b"{").unwrap();
    let time = world.time.clone();
    let options = AccessOptions {
        cost: Cost::Least,
        session_idle_seconds: SESSION_IDLE_SECONDS,
        now: Arc::new(move || time.load(Ordering::SeqCst)),
    };
    let refused = Access::open(world.backing.clone(), options).err().unwrap();
    assert_eq!(refused.code(), "access.damaged");
}
