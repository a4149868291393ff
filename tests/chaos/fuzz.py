"""Broken inputs of every kind: what reads them refuses with an error of ours, and a service that gets them lives on.

Decides how inputs are broken and what an acceptable answer is. Parsers are fed in this process; frames go to a real
service over sockets (``fuzz_network``). Every input follows from the seed.
"""

from __future__ import annotations

import faulthandler
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final

from coproc.api.codec import StrictCodec
from coproc.api.generated.coproc.v1 import (
    CancelTransactionRequest,
    CiphertextUpload,
    FetchCiphertextsRequest,
    GetServerInfoRequest,
    GetStatusRequest,
    InputBinding,
    KeyHeader,
    RegisterKeyRequest,
    StreamResultsRequest,
    SubmitComputationsRequest,
    TrivialEncryptRequest,
    TrivialValue,
    UploadCiphertextsRequest,
    UploadInputsRequest,
)
from coproc.api.inputs import ProofPolicy, check_request
from coproc.api.limits import Limits
from coproc.api.validation import (
    check_announcement,
    check_handles,
    check_status_request,
    check_stream_request,
    check_submission,
    check_transaction_id,
    check_trivial_values,
    check_uploads,
)
from coproc.client import Transaction
from coproc.config import Config, InvalidConfiguration
from coproc.errors import InvalidInput
from coproc.program.costs import cost_of
from coproc.program.types import FheType, new_handle
from coproc.results.protocol import Subscribe, read_client_message, write
from coproc.tfhe.wire import Release, WireError, read_object, write_object
from coproc.tfhe.wire.container import OBJECTS
from tests.tfhe.wire.examples import example
from tests.tfhe.wire.mutations import MUTATORS, blow_up_a_length

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

HANG_SECONDS: Final = 300
"""After this long on a thousand inputs the process ends with a stack: that is a hang, however slow the machine."""
BREAKERS: Final = [mutator for mutator in MUTATORS if mutator is not blow_up_a_length]
LIMITS: Final = Limits()


def spoil(data: bytes, chance: Random) -> bytes:
    """Break bytes once to three times."""
    for _ in range(chance.choice([1, 1, 1, 2, 3])):
        if data:
            data = chance.choice(BREAKERS)(data, chance)
    return data


def watched(count: int, each: Callable[[], str]) -> Counter[str]:
    """Do something ``count`` times under the eyes of a watchdog; counts what it says."""
    said: Counter[str] = Counter()
    try:
        for number in range(count):
            if number % 1000 == 0:
                faulthandler.dump_traceback_later(HANG_SECONDS, exit=True)
            said[each()] += 1
    finally:
        faulthandler.cancel_dump_traceback_later()
    return said


def wire_objects(chance: Random, count: int) -> Counter[str]:
    """Objects of the TFHE-rs dialect."""
    samples = {
        name: [write_object(example(name, release, chance), release) for release in Release for _ in range(8)]
        for name in OBJECTS
    }
    names = sorted(samples)

    def each() -> str:
        name = chance.choice(names)
        data = chance.choice(samples[name])
        with_length = data.count(bytes(7)) and chance.random() < 0.2
        try:
            broken = blow_up_a_length(data, chance) if with_length else spoil(data, chance)
        except IndexError:  # there is no length to blow up
            broken = spoil(data, chance)
        try:
            read_object(broken, OBJECTS[name])
        except WireError:
            return "refused"
        return "read"

    return watched(count, each)


def requests(key_id: bytes, ciphertext: bytes, chance: Random) -> dict[str, tuple[type, list[bytes]]]:
    """Valid messages of every call, by method."""
    a, b = new_handle(FheType.UINT8), new_handle(FheType.UINT8)
    draft = Transaction(key_id, chance.randbytes(16))
    product = draft.mul(draft.add(a, 3), b)
    draft.if_then_else(draft.gt(product, 7), draft.shl(product, 2), draft.cast(a, FheType.UINT8), allow=True)
    draft.div(a, b, allow=True)
    wide = Transaction(key_id)
    wide.sum([a] * 20, allow=True)
    wide.rand(FheType.UINT16, chance.randbytes(16), allow=True)
    items = [CiphertextUpload(handle=handle, ciphertext=ciphertext) for handle in (a, b)]
    binding = InputBinding(contract_address=bytes(20), user_address=bytes(20), acl_address=bytes(20), chain_id=7)
    values = [TrivialValue(handle=new_handle(FheType.UINT16), value=b"\x01\x02"), TrivialValue(handle=a, value=b"")]
    return {
        "GetServerInfo": (GetServerInfoRequest, [bytes(GetServerInfoRequest(api_version="1.0"))]),
        "UploadCiphertexts": (
            UploadCiphertextsRequest,
            [bytes(UploadCiphertextsRequest(key_id=key_id, items=[item])) for item in items],
        ),
        "UploadInputs": (
            UploadInputsRequest,
            [bytes(UploadInputsRequest(key_id=key_id, ciphertext_list=ciphertext, binding=binding))],
        ),
        "TrivialEncrypt": (TrivialEncryptRequest, [bytes(TrivialEncryptRequest(key_id=key_id, items=values))]),
        "SubmitComputations": (SubmitComputationsRequest, [bytes(draft.request()), bytes(wide.request())]),
        "GetStatus": (
            GetStatusRequest,
            [bytes(GetStatusRequest(handles=[a, b])), bytes(GetStatusRequest(transaction_id=draft.transaction_id))],
        ),
        "FetchCiphertexts": (FetchCiphertextsRequest, [bytes(FetchCiphertextsRequest(handles=[a, b]))]),
        "CancelTransaction": (
            CancelTransactionRequest,
            [bytes(CancelTransactionRequest(transaction_id=draft.transaction_id))],
        ),
        "StreamResults": (
            StreamResultsRequest,
            [bytes(StreamResultsRequest(after_sequence=1, transaction_ids=[draft.transaction_id]))],
        ),
        "RegisterKey": (
            RegisterKeyRequest,
            [
                bytes(RegisterKeyRequest(header=KeyHeader(size=100, sha256=key_id))),
                bytes(RegisterKeyRequest(chunk=bytes(100))),
            ],
        ),
    }


def _validate(request: object) -> None:
    """Check a request as the service does before it looks at its state."""
    match request:
        case UploadCiphertextsRequest():
            check_uploads(request, LIMITS)
        case UploadInputsRequest():
            check_request(request, LIMITS, ProofPolicy.TRUST)
        case TrivialEncryptRequest():
            check_trivial_values(request, LIMITS)
        case SubmitComputationsRequest():
            cost_of(check_submission(request, LIMITS).computations)
        case GetStatusRequest():
            check_status_request(request, LIMITS)
        case FetchCiphertextsRequest():
            check_handles(request.handles, LIMITS)
        case CancelTransactionRequest():
            check_transaction_id(request.transaction_id)
        case StreamResultsRequest():
            check_stream_request(request, LIMITS)
        case RegisterKeyRequest():
            check_announcement(request, LIMITS)
        case _:
            pass


def protobuf(chance: Random, count: int) -> Counter[str]:
    """Messages of the API, decoded and checked as the service does."""
    codec = StrictCodec()
    made = requests(chance.randbytes(32), chance.randbytes(64), chance)
    samples = [(kind, data) for kind, bodies in made.values() for data in bodies]

    def each() -> str:
        kind, data = chance.choice(samples)
        try:
            request = codec.decode(spoil(data, chance), kind)
            _validate(request)
        except InvalidInput:
            return "refused"
        return "taken"

    return watched(count, each)


def subscriptions(chance: Random, count: int) -> Counter[str]:
    """Texts of websocket clients."""
    handle = new_handle(FheType.UINT8)
    texts = [write(Subscribe(7, (b"abc",), (handle,))).encode(), write(Subscribe(0)).encode(), b'{"type": "ping"}']

    def each() -> str:
        broken = spoil(chance.choice(texts), chance)
        try:
            read_client_message(broken if chance.random() < 0.5 else broken.decode("latin-1"))
        except InvalidInput:
            return "refused"
        return "taken"

    return watched(count, each)


def configuration(chance: Random, count: int) -> Counter[str]:
    """Settings by name, in files and in folders of secrets."""
    names = sorted(Config.model_fields)
    values: list[object] = [
        "",
        "0",
        "-1",
        "1e400",
        "nan",
        "true",
        "cpu",
        "postgresql://x/y",
        "memory://",
        "[]",
        "{}",
        "é\0",
    ]
    values += ["[" * 500, "9" * 400, "/nowhere", b"\xff", None, [], {}, 1 << 70, 0.5, ["api"], {"max_calls": "x"}]
    names.remove("config_file")
    names.remove("secrets_directory")
    text = b'grpc_port = 5\nroles = "api"\nlimits = {max_calls = 3}\n[[chains]]\nchain_id = 1\nurls = ["ws://x"]\n'
    with TemporaryDirectory() as folder:
        file = Path(folder, "settings.toml")
        secrets = Path(folder, "secrets")
        secrets.mkdir()

        def each() -> str:
            given: dict[str, object] = {
                chance.choice(names): chance.choice(values) for _ in range(chance.choice([0, 1, 1, 2, 4]))
            }
            if chance.random() < 0.3:
                file.write_bytes(spoil(text, chance))
                given["config_file"] = file
            if chance.random() < 0.1:
                (secrets / "database_url").write_bytes(spoil(b"postgresql://u:p@h/d", chance))
                given["secrets_directory"] = secrets
            try:
                Config(**given).server_tls("h2")
            except InvalidConfiguration as error:
                if not error.message:
                    raise AssertionError("a refusal without a reason") from error
                return "refused"
            return "taken"

        return watched(count, each)


FAMILIES: Final[dict[str, Callable[[Random, int], Counter[str]]]] = {
    "wire objects": wire_objects,
    "protobuf": protobuf,
    "websocket messages": subscriptions,
    "configuration": configuration,
}
