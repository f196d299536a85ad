// What may be on the disk after a power cut, from a recording of what was written to it.
//
// At the cut, everything that a file was given before its last completed sync is there. Of what
// came later each write, and each sector of a write, is there or not, whatever its order; a
// truncation or deletion that was not synced has happened or not; room that a file was given has
// what was asked for, zeros, or garbage. Values; no thread of their own.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "common/random.h"
#include "tests/unit/fault_vfs.h"

namespace sigmacast::storage {

using Image = std::map<std::string, std::string>;  // By file name.

/// Goes through a recording, forwards.
class Disk {
 public:
    explicit Disk(const std::vector<Record>& records) : records_(records) {}

    /// Up to and without this record.
    void advance(std::size_t to);
    /// The number of the last mark.
    [[nodiscard]] std::uint64_t mark() const { return mark_; }
    [[nodiscard]] Image cut(Random& random) const;

 private:
    struct File {
        std::string synced;
        bool exists = false;               // Its name is safe, too.
        std::vector<const Record*> later;  // Not synced yet.
        std::string ghost;                 // What comes back where its deletion was not written.
        bool has_ghost = false;
    };
    /// How much of what was not synced is there.
    struct Chance {
        double written;
        double torn;
        bool garbage;
    };

    static void apply(std::string& content, const Record& record, const Chance& chance,
                      Random& random);

    const std::vector<Record>& records_;
    std::size_t at_ = 0;
    std::uint64_t mark_ = 0;
    std::map<std::string, File> files_;
};

}  // namespace sigmacast::storage
