#![allow(dead_code, unused_variables, non_camel_case_types)]
use std::cell::{Cell, RefCell};
use std::fmt::Debug;
use std::rc::Rc;

use sqlx_signals::prelude::*;

#[derive(Model)]
struct Text {
    id: Option<i64>,
    name: Rc<str>,
}

#[derive(Model)]
struct Number {
    id: Option<i64>,
    count: Cell<i64>,
}

#[derive(Model)]
struct Object {
    id: Option<i64>,
    value: Box<dyn Debug>,
}

#[derive(Model)]
struct Pointer {
    id: Option<i64>,
    pointer: *const u8,
}

#[derive(Model)]
struct Optional {
    id: Option<i64>,
    name: Option<Rc<str>>,
}

#[derive(Model)]
struct Inside {
    id: Option<i64>,
    pair: (i64, Rc<str>),
    array: [Cell<i64>; 3],
    nested: RefCell<Vec<Rc<str>>>,
    reference: &'static Cell<i64>,
    lock: std::sync::Mutex<Rc<str>>,
}

#[derive(Model)]
struct Json {
    id: Option<i64>,
    #[model(json)]
    tags: RefCell<Vec<String>>,
}

#[derive(Model)]
struct Skipped {
    id: Option<i64>,
    #[model(skip)]
    cache: Rc<str>,
    #[model(skip)]
    count: RefCell<i64>,
    #[model(skip)]
    object: Option<Box<dyn Debug>>,
}

#[derive(Model)]
struct Key {
    id: Rc<str>,
}

#[derive(Model)]
struct GivenKey {
    id: Option<Cell<i64>>,
}

#[derive(Model)]
struct ObjectKey {
    id: Box<dyn Debug>,
}

#[derive(Model)]
struct PartOfKey {
    #[model(primary_key)]
    a: i64,
    #[model(primary_key)]
    b: Cell<i64>,
}

#[derive(Model)]
struct Automatic {
    id: Option<i64>,
    #[model(generated)]
    generated: Box<dyn Debug>,
    #[model(version)]
    version: Cell<i64>,
    #[model(auto_now)]
    changed: Rc<str>,
    #[model(auto_now_add)]
    added: Cell<i64>,
}

#[derive(Model)]
struct Root {
    id: Option<i64>,
}

#[derive(Model)]
struct Leaf {
    id: Option<i64>,
    #[model(belongs_to = Root, on_delete = cascade)]
    parent: Rc<i64>,
}

fn main() {}
