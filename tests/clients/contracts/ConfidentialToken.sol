// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

import {FHE, ebool, euint8, euint32, euint64, externalEuint64} from "@fhevm/solidity/lib/FHE.sol";
import {ZamaEthereumConfig} from "@fhevm/solidity/config/ZamaConfig.sol";

/// A token whose balances nobody can read but their owners, with a few things to try beside it.
contract ConfidentialToken is ZamaEthereumConfig {
    mapping(address => euint64) public balances;
    ebool public comparison;
    euint32 public narrowed;
    euint8 public die;
    euint8 public bounded;

    function mint(address to, uint64 amount) external {
        _set(to, FHE.add(balances[to], amount));
    }

    function transfer(address to, externalEuint64 amount, bytes calldata proof) external {
        _transfer(msg.sender, to, FHE.fromExternal(amount, proof));
    }

    function transferClear(address to, uint64 amount) external {
        _transfer(msg.sender, to, FHE.asEuint64(amount));
    }

    /// Whether one has at least as much as another.
    function compare(address one, address other) external {
        comparison = FHE.ge(balances[one], balances[other]);
        FHE.allowThis(comparison);
        FHE.makePubliclyDecryptable(comparison);
    }

    function narrow(address owner) external {
        narrowed = FHE.asEuint32(balances[owner]);
        FHE.allow(narrowed, owner);
    }

    function roll() external {
        die = FHE.rem(FHE.randEuint8(), 6);
        bounded = FHE.randEuint8(16);
        FHE.allow(die, msg.sender);
        FHE.allow(bounded, msg.sender);
    }

    /// Lets the owner see, in a later block than the one that computed it, what was computed for nobody.
    euint64 public hidden;

    function hide(address owner) external {
        hidden = FHE.mul(balances[owner], 3);
        FHE.allowThis(hidden);
    }

    function show(address owner) external {
        FHE.allow(hidden, owner);
    }

    function _transfer(address from, address to, euint64 amount) internal {
        ebool enough = FHE.ge(balances[from], amount);
        euint64 moved = FHE.select(enough, amount, FHE.asEuint64(0));
        _set(to, FHE.add(balances[to], moved));
        _set(from, FHE.sub(balances[from], moved));
    }

    function _set(address owner, euint64 balance) internal {
        balances[owner] = balance;
        FHE.allowThis(balance);
        FHE.allow(balance, owner);
    }
}
