"""From annotated dataclasses to codecs: the schema is the type hints.

Decides how a hint is understood; the types themselves are in the modules beside this one. A schema module must not
postpone its annotations (no ``from __future__ import annotations``), since they are data here.

==============================  =====================================================
hint                            wire
==============================  =====================================================
``bool``, ``float``, ``bytes``  u8, f64, ``Vec<u8>``
``Annotated[T, codec]``         what the codec says
``NDArray[np.uint64]``          ``Vec<u64>`` (``np.void``: ``Vec<u128>``)
``tuple[T, ...]``               ``Vec<T>``
``tuple[A, B]``                 a Rust tuple
``T | None``                    ``Option<T>``
``Annotated[A | B, OneOf()]``   a Rust enum with fields, variants in that order
``Annotated[T, Newtype(..)]``   the tag of a one-field struct around ``T``
a class under ``@struct``       its tag, if it has one, then its fields
a class under ``@generations``  likewise; fields with ``Since`` or ``Before`` depend on the tag
an Enum under ``@unit_enum``    its tag, then the variant's index
==============================  =====================================================
"""

from __future__ import annotations

import types
from dataclasses import dataclass, fields
from enum import Enum
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Final,
    Generic,
    TypeVar,
    Union,
    cast,
    dataclass_transform,
    get_args,
    get_origin,
    get_type_hints,
)

import numpy as np
from numpy.typing import NDArray

from coproc.tfhe.wire.codec import U128_WORDS, Array, Boolean, ByteString, Codec, Float, Integer
from coproc.tfhe.wire.compound import (
    Absent,
    Converted,
    Enumeration,
    FixedTuple,
    MultiVersioned,
    Optional,
    Sequence,
    Struct,
    Variants,
    Versioned,
    changed_in_1_6,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from coproc.tfhe.wire.codec import Release

T = TypeVar("T")
E = TypeVar("E", bound=Enum)
Bindings = dict[TypeVar, object]

_VERSION: Final = "__wire_version__"
_GENERATIONS: Final = "__wire_generations__"
_NEWEST: Final = 1 << 32
_ARRAY_DTYPES: Final[dict[object, np.dtype[np.generic]]] = {
    np.uint8: np.dtype("u1"),
    np.uint32: np.dtype("<u4"),
    np.uint64: np.dtype("<u8"),
    np.void: U128_WORDS,
}
_PLAIN: Final[dict[object, Codec]] = {bool: Boolean(), float: Float(), bytes: ByteString()}


@dataclass(frozen=True, slots=True)
class Newtype:
    """Metadata: the version tag of a struct of one field that is kept as the field itself."""

    name: str
    version: int = 0


@dataclass(frozen=True, slots=True)
class OneOf:
    """Metadata of a union: a Rust enum. ``version`` None: no tag of its own."""

    name: str
    version: int | None = 0


@dataclass(frozen=True, slots=True)
class Since:
    """Metadata of an optional field that layouts before ``version`` do not have."""

    version: int


@dataclass(frozen=True, slots=True)
class Before:
    """Metadata of a field that layouts before ``version`` write as ``hint``, with the conversions to and from it."""

    version: int
    hint: object
    decoded: Callable[[object], object]
    encoded: Callable[[object], object]


def unchanged(value: object) -> object:
    """Convert nothing."""
    return value


@dataclass_transform(frozen_default=True, kw_only_default=False, eq_default=False)
def struct(version: int | None) -> Callable[[type[T]], type[T]]:
    """Declare a Rust struct (or the fields of an enum variant, ``version`` None) as a frozen dataclass with slots."""

    def declare(cls: type[T]) -> type[T]:
        # Before 3.12, calling a generic alias of a frozen class with slots, C[X](...), raises TypeError.
        made = dataclass(frozen=True, slots=not issubclass(cls, Generic), eq=False)(cls)
        setattr(made, _VERSION, version)
        return made

    return declare


@dataclass_transform(frozen_default=True, kw_only_default=False, eq_default=False)
def generations(read: tuple[int, ...], *, written_1_5: int, written_1_6: int) -> Callable[[type[T]], type[T]]:
    """Declare a struct with several layouts: the tags that are read, and the ones that 1.5 and later releases write."""

    def declare(cls: type[T]) -> type[T]:
        made = dataclass(frozen=True, slots=True, eq=False)(cls)
        setattr(made, _VERSION, None)
        setattr(made, _GENERATIONS, (read, changed_in_1_6(written_1_5, written_1_6)))
        return made

    return declare


def unit_enum(version: int) -> Callable[[type[E]], type[E]]:
    """Declare a Rust enum whose variants have no fields, in order."""

    def declare(cls: type[E]) -> type[E]:
        setattr(cls, _VERSION, version)
        return cls

    return declare


def scalar(name: str, *, at_least: int = 0, at_most: int | None = None) -> Codec:
    """Make the codec of a u64 newtype such as ``LweDimension(usize)``, tag 0, with its accepted range."""
    return Versioned(name, 0, Integer(name, 8, at_least=at_least, at_most=at_most))


_NDARRAY: Final[object] = get_origin(NDArray[np.uint8])
"""``numpy.ndarray`` itself, or from numpy 2.5 (on Python 3.12) an alias of its own kind."""
_compiled: dict[tuple[object, tuple[object, ...]], Codec] = {}


def codec_of(hint: object, bindings: Bindings | None = None) -> Codec:
    """Compile a hint; classes are compiled once.

    Raises:
        TypeError: if the hint is not in the table of this module.
    """
    bindings = bindings or {}
    if isinstance(hint, TypeVar):
        hint = bindings[hint]
    origin = get_origin(hint)
    if origin is Annotated:
        return _annotated(hint, bindings)
    if origin in {Union, types.UnionType}:
        return _option(hint, bindings)
    if origin is tuple:
        return _tuple(get_args(hint), bindings)
    if origin in {np.ndarray, _NDARRAY}:
        element = get_args(hint)[0] if origin is not np.ndarray else get_args(get_args(hint)[1])[0]
        return Array(_ARRAY_DTYPES[bindings[element] if isinstance(element, TypeVar) else element])
    if hint in _PLAIN:
        return _PLAIN[hint]
    return _class(hint, bindings)


def _annotated(hint: object, bindings: Bindings) -> Codec:
    inner, *metadata = get_args(hint)
    codec: Codec | None = None
    for item in metadata:
        if isinstance(item, Codec):
            codec = item
        elif isinstance(item, OneOf):
            codec = _variants(item, inner, bindings)
        elif isinstance(item, Newtype):
            codec = Versioned(item.name, item.version, codec or codec_of(inner, bindings))
        elif not isinstance(item, Since | Before):
            raise TypeError(f"metadata {item!r} has no wire form")
    return codec or codec_of(inner, bindings)


def _variants(one_of: OneOf, union: object, bindings: Bindings) -> Codec:
    variants = tuple((class_of(arm), codec_of(arm, bindings)) for arm in get_args(union))
    codec = Variants(one_of.name, variants)
    return codec if one_of.version is None else Versioned(one_of.name, one_of.version, codec)


def class_of(hint: object) -> type:
    """Return the class of the values that a hint describes."""
    origin = get_origin(hint)
    found = get_args(hint)[0] if origin is Annotated else (origin or hint)
    if not isinstance(found, type):
        raise TypeError(f"{hint!r} is no class")
    return cast("type[object]", found)


def _option(hint: object, bindings: Bindings) -> Codec:
    arms = [arm for arm in get_args(hint) if arm is not types.NoneType]
    if len(arms) != 1 or len(get_args(hint)) != 2:
        raise TypeError(f"a union needs OneOf, except for Option: {hint!r}")
    return Optional(codec_of(arms[0], bindings))


def _tuple(arguments: tuple[object, ...], bindings: Bindings) -> Codec:
    if len(arguments) == 2 and arguments[1] is ...:
        return Sequence(codec_of(arguments[0], bindings), f"vector of {_name_of(arguments[0])}")
    return FixedTuple(tuple(codec_of(argument, bindings) for argument in arguments))


def _name_of(hint: object) -> str:
    """Name the elements of a vector for errors."""
    for item in get_args(hint)[1:] if get_origin(hint) is Annotated else ():
        if isinstance(item, OneOf | Newtype):
            return item.name
    return getattr(hint, "__name__", "tuples")


def _class(hint: object, bindings: Bindings) -> Codec:
    origin = get_origin(hint) or hint
    if not isinstance(origin, type) or not hasattr(origin, _VERSION):
        raise TypeError(f"{hint!r} has no wire form")
    arguments = tuple(bindings[a] if isinstance(a, TypeVar) else cast("object", a) for a in get_args(hint))
    key = (cast("object", origin), arguments)
    if key not in _compiled:
        _compiled[key] = _compile_class(cast("type[object]", origin), arguments)
    return _compiled[key]


def _compile_class(cls: type[object], arguments: tuple[object, ...]) -> Codec:
    if issubclass(cls, Enum):
        codec: Codec = Enumeration(cls)
    else:
        parameters = cast("tuple[TypeVar, ...]", getattr(cls, "__parameters__", ()))
        bindings: Bindings = dict(zip(parameters, arguments, strict=True))
        generations = cast("tuple[tuple[int, ...], dict[Release, int]] | None", getattr(cls, _GENERATIONS, None))
        if generations is not None:
            read, written = generations
            return MultiVersioned(cls.__name__, {tag: layout_of(cls, tag, bindings) for tag in read}, written)
        codec = layout_of(cls, _NEWEST, bindings)
    version = cast("int | None", getattr(cls, _VERSION))
    return codec if version is None else Versioned(cls.__name__, version, codec)


def layout_of(cls: type[object], version: int, bindings: Bindings | None = None) -> Struct:
    """Compile one layout of a class, without a tag."""
    hints = get_type_hints(cls, include_extras=True)
    names = [field.name for field in fields(cast("Any", cls))]
    return Struct(cls, tuple((name, _field(name, hints[name], version, bindings or {})) for name in names))


def _field(name: str, hint: object, version: int, bindings: Bindings) -> Codec:
    for item in get_args(hint)[1:] if get_origin(hint) is Annotated else ():
        if isinstance(item, Since) and version < item.version:
            return Absent(name)
        if isinstance(item, Before) and version < item.version:
            return Converted(codec_of(item.hint, bindings), item.decoded, item.encoded)
    return codec_of(hint, bindings)
