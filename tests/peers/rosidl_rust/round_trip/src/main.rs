//! Reads a serialized message, sends it through the generated code, and writes it serialized again. See `main` for the arguments.

use std::{
    borrow::Cow,
    ffi::c_void,
    io::{Read, Write},
};

use ros_env::pi0_tt_test_interfaces::{
    msg::{Element, Everything, Nothing},
    srv::{Exchange, Exchange_Request, Exchange_Response},
};
use rosidl_runtime_rs::{Message, RmwMessage, Service};

#[repr(C)]
#[derive(Clone, Copy)]
struct Allocator([*const c_void; 5]);

#[repr(C)]
struct SerializedMessage {
    buffer: *mut u8,
    length: usize,
    capacity: usize,
    allocator: Allocator,
}

#[link(name = "rcutils")]
unsafe extern "C" {
    fn rcutils_get_default_allocator() -> Allocator;
}
#[link(name = "rmw_implementation")]
unsafe extern "C" {
    fn rmw_serialize(message: *const c_void, type_support: *const c_void, to: *mut SerializedMessage) -> i32;
    fn rmw_deserialize(from: *const SerializedMessage, type_support: *const c_void, message: *mut c_void) -> i32;
}

fn deserialize<M: RmwMessage>(bytes: &mut [u8]) -> M {
    let mut message = M::default();
    // SAFETY: the types of rmw/serialized_message.h; the buffer is only read.
    unsafe {
        let from = SerializedMessage {
            buffer: bytes.as_mut_ptr(),
            length: bytes.len(),
            capacity: bytes.len(),
            allocator: rcutils_get_default_allocator(),
        };
        assert_eq!(rmw_deserialize(&from, M::get_type_support(), (&raw mut message).cast()), 0);
    }
    message
}

fn serialize<M: RmwMessage>(message: &M) -> Vec<u8> {
    // SAFETY: the types of rmw/serialized_message.h; rmw_serialize allocates. The process ends soon, so nothing is freed.
    unsafe {
        let allocator = rcutils_get_default_allocator();
        let mut to = SerializedMessage { buffer: std::ptr::null_mut(), length: 0, capacity: 0, allocator };
        assert_eq!(rmw_serialize((&raw const *message).cast(), M::get_type_support(), &mut to), 0);
        std::slice::from_raw_parts(to.buffer, to.length).to_vec()
    }
}

/// Every field goes from the middleware's layer to the idiomatic one and back.
fn round_trip<M: Message + PartialEq>() -> Vec<u8> {
    let mut bytes = Vec::new();
    std::io::stdin().read_to_end(&mut bytes).unwrap();
    let message = M::from_rmw_message(deserialize(&mut bytes));
    let rmw = M::into_rmw_message(Cow::Borrowed(&message)).into_owned();
    assert_eq!(M::from_rmw_message(rmw.clone()), message);
    serialize(&rmw)
}

fn default<M: Message>() -> Vec<u8> {
    serialize(&*M::into_rmw_message(Cow::Owned(M::default())))
}

/// Looks at fields, constants and type supports by their Rust names.
fn check_names() {
    assert_eq!((Everything::SMALL, Everything::NEGATIVE, Everything::YES), (7, -5_000_000_000, true));
    assert_eq!((Everything::QUARTER, Everything::WHOLE), (0.25f32, 3.0f64));
    assert_eq!(Everything::QUOTED, "the \"µ\" sign");
    assert_eq!(ros_env::pi0_tt_test_interfaces::msg::rmw::Everything::SMALL, 7);
    assert_eq!(Exchange_Request::KIND, 3);

    let message = Everything {
        type_: "a keyword".into(),
        match_: 1,
        ref_: vec![true],
        box_: Element { number: 1, name: "one".into() },
        loop_: ["a".into(), "b".into()],
        ..Default::default()
    };
    assert_eq!((message.answer, message.greeting.as_str(), message.weights.as_slice()), (42, "hello", &[1.0, -2.5][..]));
    assert_eq!(<<Everything as Message>::RmwMsg as RmwMessage>::TYPE_NAME, "pi0_tt_test_interfaces/msg/Everything");

    let request = Exchange_Request { wanted: Element::default(), move_: vec![] };
    let (_, _): (<Exchange as Service>::Request, <Exchange as Service>::Response) = (request, Exchange_Response::default());
    assert!(!Exchange::get_type_support().is_null());
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let bytes = match arguments[..] {
        ["round_trip", "Everything"] => round_trip::<Everything>(),
        ["round_trip", "Nothing"] => round_trip::<Nothing>(),
        ["round_trip", "Exchange_Request"] => round_trip::<Exchange_Request>(),
        ["round_trip", "Exchange_Response"] => round_trip::<Exchange_Response>(),
        ["default", "Everything"] => default::<Everything>(),
        ["check_names"] => return check_names(),
        _ => panic!("Unknown arguments {arguments:?}"),
    };
    std::io::stdout().write_all(&bytes).unwrap();
}
