//! From rows to the rows that they belong to, and back.
#![allow(missing_docs)]

mod common;

use std::sync::LazyLock;

use sqlx_signals::prelude::*;

use common::{Scene, execute, table};

#[derive(Debug, Clone, PartialEq, Model)]
#[model(table = "people")]
struct Person {
    id: Option<i64>,
    name: String,
}

#[derive(Debug, Clone, PartialEq, Model)]
#[model(table = "messages")]
struct Message {
    id: Option<i64>,
    #[model(belongs_to = Person, on_delete = cascade)]
    sender_id: i64,
    #[model(belongs_to = Person, on_delete = set_null)]
    receiver: Option<i64>,
}

/// A tree.
#[derive(Debug, Clone, PartialEq, Model)]
#[model(table = "places")]
struct Place {
    #[model(primary_key)]
    code: String,
    #[model(belongs_to = Place, on_delete = restrict, column = "Part Of")]
    part_of: Option<String>,
}

/// The names `OF_A` and `OF_A_ID` are taken from the front.
#[derive(Debug, Clone, PartialEq, Model)]
#[model(table = "names")]
struct Named {
    id: Option<i64>,
    #[model(belongs_to = Person, on_delete = restrict)]
    a: i64,
    #[model(belongs_to = Person, on_delete = restrict)]
    a_id: i64,
    of_b: i64,
    #[model(belongs_to = Person, on_delete = restrict)]
    b_id: i64,
}

static SCENE: LazyLock<Scene> = Scene::new();

#[receiver(post_load, sender = Person)]
fn person(load: PostLoad<'_, Person>) {
    SCENE.log.push(format!("load {}", load.instance.name));
}

#[receiver(post_load, sender = Message)]
fn message(load: PostLoad<'_, Message>) {
    SCENE.log.push(format!("load message {}", load.instance.id.unwrap()));
}

async fn people(db: &Db) -> Vec<Person> {
    table(db, "people", "name TEXT NOT NULL").await;
    table(db, "names", "a BIGINT, a_id BIGINT, of_b BIGINT, b_id BIGINT").await;
    table(db, "messages", "sender_id BIGINT NOT NULL, receiver BIGINT").await;
    let person = |name: &str| Person { id: None, name: name.to_owned() };
    let mut people = vec![person("Ann"), person("Bob"), person("Cid")];
    Person::insert_many(db, &mut people).await.unwrap();
    people
}

async fn messages(db: &Db, between: &[(i64, Option<i64>)]) -> Vec<Message> {
    let message = |(sender_id, receiver): &(i64, Option<i64>)| Message {
        id: None,
        sender_id: *sender_id,
        receiver: *receiver,
    };
    let mut messages: Vec<_> = between.iter().map(message).collect();
    Message::insert_many(db, &mut messages).await.unwrap();
    messages
}

fn sorted(mut log: Vec<String>) -> Vec<String> {
    log.sort();
    log
}

fn message_ids(messages: &[Message]) -> Vec<i64> {
    let mut ids: Vec<_> = messages.iter().map(|message| message.id.unwrap()).collect();
    ids.sort_unstable();
    ids
}

on_every_database! {
    async fn a_row_leads_to_the_rows_that_it_belongs_to(db: Db) {
        let _turn = SCENE.begin().await;
        let people = people(&db).await;
        let [ann, bob, _] = [0, 1, 2].map(|n: usize| people[n].id.unwrap());
        let sent = messages(&db, &[(ann, Some(bob)), (bob, None), (4711, Some(4711))]).await;
        let sender: Person = Message::OF_SENDER.parent(&db, &sent[0]).await.unwrap();
        assert_eq!(sender, people[0]);
        let receiver: Option<Person> = Message::OF_RECEIVER.parent(&db, &sent[0]).await.unwrap();
        assert_eq!(receiver, Some(people[1].clone()));
        assert_eq!(SCENE.log.take(), ["load Ann", "load Bob"]);
        assert_eq!(Message::OF_RECEIVER.parent(&db, &sent[1]).await.unwrap(), None);
        assert!(SCENE.log.take().is_empty());
        assert!(Message::OF_SENDER.parent(&db, &sent[2]).await.unwrap_err().is_not_found());
        assert!(Message::OF_RECEIVER.parent(&db, &sent[2]).await.unwrap_err().is_not_found());
        // In a transaction, and in a task that must be `Send`.
        let task = tokio::spawn(async move {
            let mut tx = db.begin().await.unwrap();
            people[0].clone().delete(&mut tx).await.unwrap();
            assert!(Message::OF_SENDER.parent(&mut tx, &sent[0]).await.unwrap_err().is_not_found());
        });
        task.await.unwrap();
    }

    async fn many_rows_lead_to_their_parents_in_one_statement(db: Db) {
        let _turn = SCENE.begin().await;
        let people = people(&db).await;
        let [ann, bob, cid] = [0, 1, 2].map(|n: usize| people[n].id.unwrap());
        let sent = messages(&db, &[(bob, Some(cid)), (ann, None), (bob, Some(cid))]).await;
        let senders = Message::OF_SENDER.parents(&db, &sent).await.unwrap();
        let names: Vec<&str> = senders.iter().map(|sender| &*sender.name).collect();
        assert_eq!(names, ["Bob", "Ann", "Bob"]);
        assert_eq!(sorted(SCENE.log.take()), ["load Ann", "load Bob"], "each parent is read once");
        assert_eq!(senders.into_rows().len(), 2);
        let receivers = Message::OF_RECEIVER.parents(&db, &sent).await.unwrap();
        let names: Vec<Option<&str>> = receivers.iter().map(|r| r.map(|r| &*r.name)).collect();
        assert_eq!(names, [Some("Cid"), None, Some("Cid")]);
        assert_eq!(Message::OF_RECEIVER.parents(&db, &sent[1..2]).await.unwrap().into_rows(), []);
        assert_eq!(Message::OF_SENDER.parents(&db, &[]).await.unwrap().iter().count(), 0);
        let lost = Message { sender_id: 4711, ..sent[0].clone() };
        let error = Message::OF_SENDER.parents(&db, &[lost]).await.unwrap_err();
        assert!(error.is_not_found() && error.to_string().contains("4711"), "{error}");
    }

    async fn rows_lead_to_the_rows_that_belong_to_them(db: Db) {
        let _turn = SCENE.begin().await;
        let people = people(&db).await;
        let [ann, bob, cid] = [0, 1, 2].map(|n: usize| people[n].id.unwrap());
        let sent = messages(&db, &[(bob, Some(cid)), (ann, None), (bob, Some(ann))]).await;
        let of_bob = Message::OF_SENDER.children(&db, &people[1]).await.unwrap();
        assert_eq!(message_ids(&of_bob), [sent[0].id.unwrap(), sent[2].id.unwrap()]);
        assert_eq!(SCENE.log.take().len(), 2);
        assert!(Message::OF_SENDER.children(&db, &people[2]).await.unwrap().is_empty());
        let unsaved = Person { id: None, name: "Dan".to_owned() };
        assert!(Message::OF_SENDER.children(&db, &unsaved).await.unwrap().is_empty());

        let all = [people[2].clone(), unsaved, people[1].clone(), people[0].clone()];
        let sent_by = Message::OF_SENDER.children_of_each(&db, &all).await.unwrap();
        let ids: Vec<_> = sent_by.iter().map(|messages| message_ids(messages)).collect();
        let [first, second, third] = [0, 1, 2].map(|n: usize| sent[n].id.unwrap());
        assert_eq!(ids, [vec![], vec![], vec![first, third], vec![second]]);
        let received_by = Message::OF_RECEIVER.children_of_each(&db, &all).await.unwrap();
        let ids: Vec<_> = received_by.iter().map(|messages| message_ids(messages)).collect();
        assert_eq!(ids, [vec![first], vec![], vec![], vec![third]]);
        assert!(Message::OF_SENDER.children_of_each(&db, &[]).await.unwrap().is_empty());
        let twice = [people[1].clone(), people[0].clone(), people[1].clone()];
        let sent_by = Message::OF_SENDER.children_of_each(&db, &twice).await.unwrap();
        let ids: Vec<_> = sent_by.iter().map(|messages| message_ids(messages)).collect();
        assert_eq!(ids, [vec![first, third], vec![second], vec![first, third]]);
    }

    async fn rows_are_related_as_the_database_compares_their_keys(db: Db) {
        let code = match db.kind() {
            sqlx_signals::DatabaseKind::Sqlite => "TEXT COLLATE NOCASE",
            sqlx_signals::DatabaseKind::Postgres => "char(8)",
        };
        let table = format!("CREATE TABLE places (code TEXT PRIMARY KEY, \"Part Of\" {code})");
        execute(&db, &table).await;
        let part_of = match db.kind() {
            sqlx_signals::DatabaseKind::Sqlite => "PERU",
            sqlx_signals::DatabaseKind::Postgres => "peru ",
        };
        let mut peru = Place { code: "peru".into(), part_of: None };
        peru.insert(&db).await.unwrap();
        Place { code: "lima".into(), part_of: Some(part_of.into()) }.insert(&db).await.unwrap();
        let parts = Place::OF_PART_OF.children_of_each(&db, &[peru]).await.unwrap();
        assert_eq!(parts[0].len(), 1);
    }

    async fn a_tree_is_read_level_by_level(db: Db) {
        execute(&db, "CREATE TABLE places (code TEXT PRIMARY KEY, \"Part Of\" TEXT)").await;
        let place = |code: &str, part_of: &str| Place {
            code: code.to_owned(),
            part_of: (!part_of.is_empty()).then(|| part_of.to_owned()),
        };
        let mut all = vec![place("world", ""), place("peru", "world"), place("lima", "peru"), place("mali", "world")];
        Place::insert_many(&db, &mut all).await.unwrap();
        let mut level = vec![all[0].clone()];
        let mut codes = Vec::new();
        while !level.is_empty() {
            let mut next: Vec<_> =
                Place::OF_PART_OF.children_of_each(&db, &level).await.unwrap().into_iter().flatten().collect();
            next.sort_by(|one, other| one.code.cmp(&other.code));
            codes.push(next.iter().map(|place| place.code.clone()).collect::<Vec<_>>());
            level = next;
        }
        assert_eq!(codes, [vec!["mali".to_owned(), "peru".to_owned()], vec!["lima".to_owned()], vec![]]);
        assert_eq!(Place::OF_PART_OF.parent(&db, &all[2]).await.unwrap().unwrap().code, "peru");
    }
}

#[test]
fn each_column_has_a_constant_that_no_other_has() {
    assert_eq!(format!("{:?}", Message::OF_SENDER), "Message.sender_id → Person");
    assert_eq!(format!("{:?}", Place::OF_PART_OF), "Place.Part Of → Place");
    assert_eq!(format!("{:?}", Named::OF_A), "Named.a → Person");
    assert_eq!(format!("{:?}", Named::OF_A_ID), "Named.a_id → Person");
    assert_eq!(format!("{:?}", Named::OF_B_ID), "Named.b_id → Person");
    assert_eq!(Named::OF_B.name(), "of_b");
}
