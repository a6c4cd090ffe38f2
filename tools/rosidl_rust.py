#!/usr/bin/env python3
"""Generates the Rust sources of ROS 2 messages and services in the layout that the crates `ros-env` 0.3 and `rclrs` 0.8 include.

`ros-env` looks for `<prefix>/share/<package>/rust` on AMENT_PREFIX_PATH. Distributions whose packages bring that folder need this
tool for nothing: a package that has one is left alone, and so are the packages that it needs. For all others the folder is written
to `<output>/share/<package>/rust`, and `<output>` goes in front of AMENT_PREFIX_PATH:

    Cargo.toml      marks the package for ros-env
    src/lib.rs      empty: ros-env includes the modules itself
    src/msg.rs      idiomatic messages: Vec and String
    src/msg/rmw.rs  the same messages as rosidl_generator_c lays them out, handed to the middleware without conversion
    src/srv.rs, src/srv/rmw.rs

Names and types follow the traits of the crate `rosidl_runtime_rs` 0.7, so that a node compiles alike on every distribution. Actions
and service events are not generated. Needs `rosidl_parser` of a ROS 2 installation.
"""

import argparse
import os
import pathlib
import sys

from rosidl_parser import definition as idl
from rosidl_parser.parser import parse_idl_file

RUNTIME = "rosidl_runtime_rs"

PRIMITIVES = {
    "boolean": "bool",
    "octet": "u8",
    "char": "u8",
    "wchar": "u16",
    "float": "f32",
    "double": "f64",
    **{f"{sign}int{bits}": f"{'u' if sign else 'i'}{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}

KEYWORDS = frozenset(
    "abstract as async await become box break const continue crate do dyn else enum extern false final fn for gen if impl in let loop"
    " macro match mod move mut override priv pub ref return self Self static struct super trait true try type typeof unsafe unsized"
    " use virtual where while yield".split()
)


def field_name(name):
    """A field whose name is a keyword of Rust gets an underscore."""
    return name + "_" if name in KEYWORDS else name


def type_path(type_, rmw):
    package, kind = type_.namespaces
    return f"crate::{package}::{kind}::{'rmw::' if rmw else ''}{type_.name}"


def rust_type(type_, rmw):
    """Type of a field in the idiomatic layer, or in the layer of the middleware."""
    match type_:
        case idl.BasicType():
            return PRIMITIVES[type_.typename]
        case idl.BoundedString():
            return f"{RUNTIME}::BoundedString<{type_.maximum_size}>"
        case idl.BoundedWString():
            return f"{RUNTIME}::BoundedWString<{type_.maximum_size}>"
        case idl.UnboundedString():
            return f"{RUNTIME}::String" if rmw else "std::string::String"
        case idl.UnboundedWString():
            return f"{RUNTIME}::WString" if rmw else "std::string::String"
        case idl.Array():
            return f"[{rust_type(type_.value_type, rmw)}; {type_.size}]"
        case idl.BoundedSequence():
            # The bound is kept in both layers, and its elements are those of the middleware.
            return f"{RUNTIME}::BoundedSequence<{rust_type(type_.value_type, True)}, {type_.maximum_size}>"
        case idl.UnboundedSequence():
            return f"{RUNTIME}::Sequence<{rust_type(type_.value_type, True)}>" if rmw else f"Vec<{rust_type(type_.value_type, False)}>"
        case idl.NamespacedType():
            return type_path(type_, rmw)
    raise TypeError(f"No Rust type for {type_!r}")


def same_in_both_layers(type_):
    return rust_type(type_, True) == rust_type(type_, False)


def into_rmw(type_, value):
    """Expression that makes a middleware value of `value`, which is a place of idiomatic type."""
    match type_:
        case idl.BasicType():
            return value
        case _ if same_in_both_layers(type_):
            return f"{value}.clone()"
        case idl.UnboundedString() | idl.UnboundedWString():
            return f"{value}.as_str().into()"
        case idl.Array():
            return f"std::array::from_fn(|i| {into_rmw(type_.value_type, value + '[i]')})"
        case idl.UnboundedSequence() if same_in_both_layers(type_.value_type):
            return f"{value}.as_slice().into()"
        case idl.UnboundedSequence():
            return f"{value}.iter().map(|element| {into_rmw(type_.value_type, '(*element)')}).collect()"
    return f"<{type_path(type_, False)} as {RUNTIME}::Message>::into_rmw_message(std::borrow::Cow::Borrowed(&{value})).into_owned()"


def from_rmw(type_, value):
    """Expression that makes an idiomatic value of `value`, which is an owned middleware value."""
    match type_:
        case _ if same_in_both_layers(type_):
            return value
        case idl.UnboundedString() | idl.UnboundedWString():
            return f"{value}.to_string()"
        case idl.Array():
            return f"{value}.map(|element| {from_rmw(type_.value_type, 'element')})"
        case idl.UnboundedSequence() if isinstance(type_.value_type, idl.BasicType):
            return f"{value}.into()"
        case idl.UnboundedSequence():
            return f"{value}.into_iter().map(|element| {from_rmw(type_.value_type, 'element')}).collect()"
    return f"<{type_path(type_, False)} as {RUNTIME}::Message>::from_rmw_message({value})"


def string_literal(text):
    return '"' + "".join(c if c.isprintable() and c not in '"\\' else f"\\u{{{ord(c):x}}}" for c in text) + '"'


def constant(definition):
    if isinstance(definition.type, idl.BasicType):
        rust = PRIMITIVES[definition.type.typename]
        value = {"bool": str(definition.value).lower(), "f32": repr(float(definition.value)), "f64": repr(float(definition.value))}.get(
            rust, repr(definition.value)
        )
    else:
        rust, value = "&'static str", string_literal(definition.value)
    return f"    pub const {definition.name}: {rust} = {value};"


def doc_comment(element, indent=""):
    return [f"{indent}/// {line}".rstrip() for text in element.get_comment_lines() for line in text.splitlines() or [""]]


def struct(message, rmw):
    """Struct, documentation and constants: what both layers share."""
    structure = message.structure
    lines = doc_comment(structure)
    if rmw:
        lines.append("#[repr(C)]")
    lines += ["#[allow(non_camel_case_types)]", "#[derive(Clone, Debug, PartialEq, PartialOrd)]"]
    lines.append(f"pub struct {structure.namespaced_type.name} {{")
    for member in structure.members:
        lines += doc_comment(member, "    ")
        lines.append(f"    pub {field_name(member.name)}: {rust_type(member.type, rmw)},")
    lines.append("}")
    if message.constants:
        lines += [f"impl {structure.namespaced_type.name} {{", *map(constant, message.constants), "}"]
    return "\n".join(lines)


def idiomatic_message(message):
    structure = message.structure
    name = structure.namespaced_type.name
    rmw_type = type_path(structure.namespaced_type, True)

    def fields(convert):
        return "".join(
            f"\n            {field_name(member.name)}: {convert(member.type, 'message.' + field_name(member.name))},"
            for member in structure.members
        )

    return f"""\
{struct(message, rmw=False)}
impl Default for {name} {{
    fn default() -> Self {{
        // The C side knows the default values of the interface definition.
        <Self as {RUNTIME}::Message>::from_rmw_message({rmw_type}::default())
    }}
}}
impl {RUNTIME}::Message for {name} {{
    type RmwMsg = {rmw_type};
    fn into_rmw_message(message: std::borrow::Cow<'_, Self>) -> std::borrow::Cow<'_, Self::RmwMsg> {{
        std::borrow::Cow::Owned({rmw_type} {{{fields(into_rmw)}
        }})
    }}
    fn from_rmw_message(message: Self::RmwMsg) -> Self {{
        Self {{{fields(from_rmw)}
        }}
    }}
}}
"""


def rmw_message(message):
    type_ = message.structure.namespaced_type
    name, (package, kind) = type_.name, type_.namespaces
    symbol = f"{package}__{kind}__{name}"
    type_support = f"rosidl_typesupport_c__get_message_type_support_handle__{symbol}"
    sequence = f"{RUNTIME}::Sequence<{name}>"
    return f"""\
{struct(message, rmw=True)}
#[link(name = "{package}__rosidl_typesupport_c")]
unsafe extern "C" {{
    fn {type_support}() -> *const std::ffi::c_void;
}}
#[link(name = "{package}__rosidl_generator_c")]
unsafe extern "C" {{
    fn {symbol}__init(message: *mut {name}) -> bool;
    fn {symbol}__Sequence__init(sequence: *mut {sequence}, size: usize) -> bool;
    fn {symbol}__Sequence__fini(sequence: *mut {sequence});
    fn {symbol}__Sequence__copy(from: *const {sequence}, to: *mut {sequence}) -> bool;
}}
impl Default for {name} {{
    fn default() -> Self {{
        // SAFETY: all zeros is a valid value of every field, and what __init expects.
        unsafe {{
            let mut message = std::mem::zeroed();
            assert!({symbol}__init(&mut message), "Out of memory in {symbol}__init");
            message
        }}
    }}
}}
// SAFETY of the calls: a Sequence is laid out as the C functions expect it.
impl {RUNTIME}::SequenceAlloc for {name} {{
    fn sequence_init(sequence: &mut {RUNTIME}::Sequence<Self>, size: usize) -> bool {{
        unsafe {{ {symbol}__Sequence__init(sequence, size) }}
    }}
    fn sequence_fini(sequence: &mut {RUNTIME}::Sequence<Self>) {{
        unsafe {{ {symbol}__Sequence__fini(sequence) }}
    }}
    fn sequence_copy(from: &{RUNTIME}::Sequence<Self>, to: &mut {RUNTIME}::Sequence<Self>) -> bool {{
        unsafe {{ {symbol}__Sequence__copy(from, to) }}
    }}
}}
impl {RUNTIME}::Message for {name} {{
    type RmwMsg = Self;
    fn into_rmw_message(message: std::borrow::Cow<'_, Self>) -> std::borrow::Cow<'_, Self> {{
        message
    }}
    fn from_rmw_message(message: Self) -> Self {{
        message
    }}
}}
impl {RUNTIME}::RmwMessage for {name} {{
    const TYPE_NAME: &'static str = "{package}/{kind}/{name}";
    fn get_type_support() -> *const std::ffi::c_void {{
        // SAFETY: no preconditions.
        unsafe {{ {type_support}() }}
    }}
}}
"""


def service(definition, rmw):
    type_ = definition.namespaced_type
    name, (package, kind) = type_.name, type_.namespaces
    type_support = f"rosidl_typesupport_c__get_service_type_support_handle__{package}__{kind}__{name}"
    request, response = (type_path(m.structure.namespaced_type, rmw) for m in (definition.request_message, definition.response_message))
    return f"""\
#[allow(non_camel_case_types)]
pub struct {name};
#[link(name = "{package}__rosidl_typesupport_c")]
unsafe extern "C" {{
    fn {type_support}() -> *const std::ffi::c_void;
}}
impl {RUNTIME}::Service for {name} {{
    type Request = {request};
    type Response = {response};
    fn get_type_support() -> *const std::ffi::c_void {{
        // SAFETY: no preconditions.
        unsafe {{ {type_support}() }}
    }}
}}
"""


class Package:
    """The interface definitions of one package, parsed."""

    def __init__(self, name, folder):
        self.name = name
        self.messages = {"msg": [], "srv": []}
        self.services = []
        for path in sorted(folder.glob("msg/*.idl")) + sorted(folder.glob("srv/*.idl")):
            content = parse_idl_file(idl.IdlLocator(folder, path.relative_to(folder))).content
            self.messages["msg"] += content.get_elements_of_type(idl.Message)
            for definition in content.get_elements_of_type(idl.Service):
                self.messages["srv"] += [definition.request_message, definition.response_message]
                self.services.append(definition)
        if not any(self.messages.values()):
            raise FileNotFoundError(f"{folder} holds no .idl of messages or services. Is {name} a package of interfaces, and installed?")

    def dependencies(self):
        """Packages whose types are used here."""
        found = set()
        for message in self.messages["msg"] + self.messages["srv"]:
            for member in message.structure.members:
                type_ = member.type
                if isinstance(type_, idl.AbstractNestedType):
                    type_ = type_.value_type
                if isinstance(type_, idl.NamespacedType):
                    found.add(type_.namespaces[0])
        return found - {self.name}

    def sources(self):
        """Path in the package's rust folder -> text."""
        dependencies = "".join(f'{name} = "*"\n' for name in sorted(self.dependencies()))
        files = {
            "Cargo.toml": f'[package]\nname = "{self.name}"\nversion = "0.0.0"\nedition = "2021"\n\n'
            f"[dependencies]\n{dependencies}\n[package.metadata.ros-env]\ninclude = true\n",
            "src/lib.rs": "",
        }
        for kind, messages in self.messages.items():
            if messages:
                services = self.services if kind == "srv" else []
                files[f"src/{kind}.rs"] = "\n".join([*map(idiomatic_message, messages), *(service(s, False) for s in services)])
                files[f"src/{kind}/rmw.rs"] = "\n".join([*map(rmw_message, messages), *(service(s, True) for s in services)])
        return files


def write_if_changed(path, text):
    """Keeps the time of an unchanged file, so that cargo does not build it again."""
    if path.exists() and path.read_text() == text:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def generate(roots, output, prefixes, folders):
    """Writes `roots` and every package that they use, except those for which a prefix brings Rust sources. Returns names by outcome."""
    generated, brought, pending = [], [], sorted(roots, reverse=True)
    while pending:
        name = pending.pop()
        if name in generated or name in brought:
            continue
        shares = [prefix / "share" / name for prefix in prefixes]
        if name not in folders and any((share / "rust" / "Cargo.toml").exists() for share in shares):
            brought.append(name)
            continue
        folder = folders.get(name) or next((share for share in shares if share.is_dir()), None)
        if folder is None:
            raise FileNotFoundError(f"Package {name} is in none of {', '.join(map(str, prefixes))}. Install it or source its workspace")
        package = Package(name, folder)
        for path, text in package.sources().items():
            write_if_changed(output / "share" / name / "rust" / path, text)
        generated.append(name)
        pending += sorted(package.dependencies())
    return generated, brought


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=pathlib.Path, required=True, help="prefix to write share/<package>/rust into")
    parser.add_argument(
        "--idl", metavar="PACKAGE=FOLDER", action="append", default=[], help="a package that is not installed yet: folder over its msg/*.idl"
    )
    parser.add_argument("packages", nargs="+", help="packages to generate with all that they use; looked up on AMENT_PREFIX_PATH")
    arguments = parser.parse_args()
    # The output may already be on the path: what was generated there before is not what a distribution brings.
    prefixes = [
        pathlib.Path(p)
        for p in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)
        if p and pathlib.Path(p).resolve() != arguments.output.resolve()
    ]
    folders = {name: pathlib.Path(folder).resolve() for name, _, folder in (entry.partition("=") for entry in arguments.idl)}
    try:
        generated, brought = generate(arguments.packages, arguments.output, prefixes, folders)
    except FileNotFoundError as error:
        sys.exit(str(error))
    print(f"Rust messages in {arguments.output}: {', '.join(sorted(generated))}" + (f" (from ROS: {', '.join(sorted(brought))})" if brought else ""))


if __name__ == "__main__":
    main()
