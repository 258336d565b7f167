//! Keys: assigned by the database or by the program, of one column or of several, and with other names.
#![allow(missing_docs)]

mod common;

use common::{count, execute};
use sqlx_signals::DatabaseKind;
use sqlx_signals::prelude::*;

#[cfg(feature = "uuid")]
use sqlx_signals::sqlx::types::Uuid;

on_every_database! {
    async fn a_key_has_the_width_of_its_field(db: Db) {
        #[derive(Debug, Clone, PartialEq, Model)]
        struct Small { id: Option<i32>, name: String }
        let id = match db.kind() {
            DatabaseKind::Sqlite => "INTEGER PRIMARY KEY",
            DatabaseKind::Postgres => "SERIAL PRIMARY KEY",
        };
        execute(&db, &format!("CREATE TABLE small (id {id}, name TEXT NOT NULL)")).await;
        let mut row = Small { id: None, name: "a".to_owned() };
        assert!(row.save(&db).await.unwrap().created);
        let key: i32 = row.pk().unwrap();
        row.name = "b".to_owned();
        assert!(!row.save(&db).await.unwrap().created);
        assert_eq!(Small::get(&db, key).await.unwrap(), row);
        assert_eq!(Small::find(&db, &key).await.unwrap(), Some(row));
    }

    async fn a_save_returns_the_key_of_the_row(db: Db) {
        #[derive(Debug, Clone, Model)]
        #[model(table = "notes")]
        struct Note {
            id: Option<i64>,
            #[model(unique)]
            text: String,
        }
        #[derive(Debug, Clone, Model)]
        #[model(table = "seats")]
        struct Seat {
            #[model(primary_key)]
            row: String,
            #[model(primary_key)]
            number: i32,
        }
        // `Saved` alone is the result for a key of type `i64`.
        async fn stored(db: &Db, note: &mut Note) -> Result<Saved> {
            note.save(db).await
        }
        common::table(&db, "notes", "text TEXT NOT NULL UNIQUE").await;
        execute(&db, "CREATE TABLE seats (\"row\" TEXT, number INTEGER, PRIMARY KEY (\"row\", number))").await;

        let mut note = Note { id: None, text: "a".to_owned() };
        let saved = stored(&db, &mut note).await.unwrap();
        assert!(saved.created && note.id == Some(saved.pk));
        let updated = [note.save(&db).await.unwrap(), note.update(&db).await.unwrap()];
        assert_eq!(updated, [Saved { created: false, pk: saved.pk }; 2]);
        let partial = note.save_fields(&db, &[Note::TEXT]).await.unwrap();
        assert_eq!(partial, Saved { created: false, pk: Some(saved.pk) });
        let mut same = Note { id: None, text: "a".to_owned() };
        assert_eq!(same.save_fields(&db, &[]).await.unwrap(), Saved { created: false, pk: None });
        assert_eq!(same.upsert(&db, &[Note::TEXT]).await.unwrap(), updated[0]);
        let inserted = Note { id: None, text: "b".to_owned() }.insert(&db).await.unwrap();
        assert!(inserted.created && inserted.pk != saved.pk);

        let seat = Seat { row: "A".to_owned(), number: 12 }.insert(&db).await.unwrap();
        assert_eq!(seat, Saved { created: true, pk: ("A".to_owned(), 12) });
    }

    async fn the_database_can_assign_a_text_key(db: Db) {
        #[derive(Debug, Clone, PartialEq, Model)]
        #[model(table = "tokens")]
        struct Token {
            #[model(primary_key, column = "Token Key")]
            key: Option<String>,
            owner: String,
        }
        let default = match db.kind() {
            DatabaseKind::Sqlite => "(lower(hex(randomblob(16))))",
            DatabaseKind::Postgres => "md5(random()::text)",
        };
        execute(
            &db,
            &format!(r#"CREATE TABLE tokens ("Token Key" TEXT PRIMARY KEY DEFAULT {default}, owner TEXT NOT NULL)"#),
        )
        .await;
        let mut token = Token { key: None, owner: "Ann".to_owned() };
        assert!(token.save(&db).await.unwrap().created);
        let key = token.pk().unwrap();
        assert_eq!(key.len(), 32);
        assert_eq!(Token::get(&db, &*key).await.unwrap(), token);
        assert_eq!(Token::get(&db, &key).await.unwrap(), token);
        assert!(Token::find(&db, "none").await.unwrap().is_none());

        let mut own = Token { key: Some("own".to_owned()), owner: "Bob".to_owned() };
        assert!(own.save(&db).await.unwrap().created);
        own.owner = "Cid".to_owned();
        assert!(!own.save(&db).await.unwrap().created);
        let mut many: Vec<_> = (0..20).map(|n| Token { key: None, owner: n.to_string() }).collect();
        Token::insert_many(&db, &mut many).await.unwrap();
        for token in &many {
            assert_eq!(&Token::get(&db, token.pk().unwrap()).await.unwrap(), token);
        }
        assert!(own.delete(&db).await.unwrap());
        assert_eq!((own.key, count(&db, "tokens").await), (None, 21));
    }

    async fn a_composite_key_in_many_rows_at_once(db: Db) {
        #[derive(Debug, Clone, PartialEq, Model)]
        #[model(table = "memberships")]
        struct Membership {
            role: String,
            #[model(primary_key, column = "user")]
            user_id: i64,
            #[model(primary_key)]
            team: String,
        }
        execute(
            &db,
            r#"CREATE TABLE memberships (role TEXT NOT NULL, "user" BIGINT, team TEXT, PRIMARY KEY ("user", team))"#,
        )
        .await;
        let of = |user_id, team: &str| Membership { role: "member".to_owned(), user_id, team: team.to_owned() };
        let mut many = vec![of(1, "core"), of(1, "docs"), of(2, "core")];
        assert_eq!(Membership::insert_many(&db, &mut many).await.unwrap(), 3);
        many[1].role = "lead".to_owned();
        many.reverse();
        assert_eq!(Membership::update_many(&db, &mut many).await.unwrap(), 3);
        let lead = Membership::get(&db, &(1, "docs".to_owned())).await.unwrap();
        assert_eq!((lead.pk(), &*lead.role), (Some((1, "docs".to_owned())), "lead"));
        let mut one = Membership { role: "guest".to_owned(), ..lead };
        one.save_fields(&db, &[Membership::ROLE]).await.unwrap();
        assert_eq!(Membership::get(&db, (1, "docs".to_owned())).await.unwrap().role, "guest");
        assert_eq!(Membership::delete_many(&db, &mut many[..2]).await.unwrap(), 2);
        assert_eq!(Membership::all(&db).await.unwrap(), [of(1, "core")]);
    }
}

#[cfg(feature = "uuid")]
on_every_database! {
    async fn a_uuid_key_is_assigned_by_the_program_or_the_database(db: Db) {
        #[derive(Debug, Clone, PartialEq, Model)]
        struct Parcel { id: Uuid, weight: i32 }
        #[derive(Debug, Clone, PartialEq, Model)]
        #[model(table = "parcel")]
        struct NewParcel { id: Option<Uuid>, weight: i32 }
        let id = match db.kind() {
            DatabaseKind::Sqlite => "BLOB PRIMARY KEY DEFAULT (randomblob(16))",
            DatabaseKind::Postgres => "UUID PRIMARY KEY DEFAULT gen_random_uuid()",
        };
        execute(&db, &format!("CREATE TABLE parcel (id {id}, weight INTEGER NOT NULL)")).await;
        let mut own = Parcel { id: Uuid::from_u128(7), weight: 1 };
        assert!(own.save(&db).await.unwrap().created);
        assert!(!own.save(&db).await.unwrap().created);
        assert_eq!(Parcel::get(&db, own.id).await.unwrap(), own);
        assert!(own.delete(&db).await.unwrap());
        assert_eq!(own.id, Uuid::from_u128(7), "a key of the program's own stays");

        let mut given = NewParcel { id: None, weight: 2 };
        assert!(given.save(&db).await.unwrap().created);
        assert_eq!(NewParcel::get(&db, given.pk().unwrap()).await.unwrap(), given);
        assert_eq!(NewParcel::find(&db, Uuid::nil()).await.unwrap(), None);
        let mut many: Vec<_> = (0..100).map(|weight| NewParcel { id: None, weight }).collect();
        NewParcel::insert_many(&db, &mut many).await.unwrap();
        for parcel in &many {
            assert_eq!(&NewParcel::get(&db, parcel.id.unwrap()).await.unwrap(), parcel);
        }
    }
}

#[derive(Debug, Clone, PartialEq, Model)]
#[model(table = "tags")]
struct Tag {
    #[model(primary_key)]
    name: String,
}

on_every_database! {
    async fn an_update_keeps_a_key_that_is_written_in_another_way(db: Db) {
        execute(&db, match db.kind() {
            DatabaseKind::Sqlite => "CREATE TABLE tags (name TEXT NOT NULL PRIMARY KEY COLLATE NOCASE)",
            DatabaseKind::Postgres => "CREATE EXTENSION IF NOT EXISTS citext; CREATE TABLE tags (name CITEXT PRIMARY KEY)",
        })
        .await;
        Tag { name: "Ann".into() }.save(&db).await.unwrap();
        for mut tag in [Tag { name: "ANN".into() }, Tag { name: "ann".into() }] {
            tag.update(&db).await.unwrap();
            assert!(!tag.save(&db).await.unwrap().created);
        }
        let (stored,): (String,) = db.query("SELECT CAST(name AS TEXT) FROM tags").fetch_one().await.unwrap();
        assert_eq!(stored, "Ann");
    }
}
