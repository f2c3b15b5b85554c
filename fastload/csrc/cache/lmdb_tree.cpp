#include "lmdb_tree.h"

#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

namespace fastload {
namespace {

// The on-disk format of LMDB 0.9 (data version 1), as in the structures of its mdb.c.
constexpr uint32_t kMagic = 0xBEEFC0DE, kDataVersion = 1;
constexpr size_t kPageHeader = 16, kNodeHeader = 8, kMetaSize = 136;
constexpr size_t kMaxKey = 511, kMaxDepth = 32;
constexpr uint16_t kBranchPage = 0x01, kLeafPage = 0x02, kOverflowPage = 0x04, kMetaPage = 0x08;
constexpr uint16_t kBigData = 0x01;  // node flag: the value lies on overflow pages
constexpr uint64_t kNoPage = ~uint64_t{0};

template <typename T>
T load(const uint8_t* p) {
    T value;
    std::memcpy(&value, p, sizeof value);
    return value;
}

[[noreturn]] void damaged(const std::string& what) { throw std::invalid_argument(what); }

std::string page_name(uint64_t number) { return "page " + std::to_string(number); }

struct Meta {
    uint64_t page_size, depth, entries, root, last_page, transaction;
};

class Walk {
public:
    Walk(const uint8_t* file, size_t file_size, const LmdbVisitor& visit, Residency residency)
        : file_(file), file_size_(file_size), visit_(visit), resident_(file, file_size, residency) {}

    uint64_t run() {
        const Meta meta = newest_meta();
        page_size_ = meta.page_size;
        pages_ = file_size_ / page_size_;
        seen_.assign(pages_, false);
        depth_ = meta.depth;
        if (meta.root != kNoPage) descend(meta.root, 1);
        if (entries_ != meta.entries)
            damaged("it holds " + std::to_string(entries_) + " of " + std::to_string(meta.entries) + " entries");
        return (meta.last_page + 1) * page_size_;
    }

private:
    Meta read_meta(uint64_t at) const {
        if (file_size_ < at + kPageHeader + kMetaSize) damaged("the file is too short to be an LMDB file");
        const uint8_t* page = file_ + at;
        const uint8_t* meta = page + kPageHeader;
        if (load<uint32_t>(meta) != kMagic) damaged("it does not begin as an LMDB file does");
        if (load<uint32_t>(meta + 4) != kDataVersion) damaged("it is of another version of LMDB's format");
        if (!(load<uint16_t>(page + 10) & kMetaPage)) damaged("its first pages are damaged");
        const uint8_t* database = meta + 72;  // the second of two; the first lists free pages
        if (load<uint16_t>(database + 4) != 0) damaged("its database has flags that fastload never sets");
        return {load<uint32_t>(meta + 24), load<uint16_t>(database + 6), load<uint64_t>(database + 32),
                load<uint64_t>(database + 40), load<uint64_t>(meta + 120), load<uint64_t>(meta + 128)};
    }

    Meta newest_meta() const {
        const Meta first = read_meta(0);
        if (first.page_size < 512 || first.page_size > 65536 || (first.page_size & (first.page_size - 1)))
            damaged("its page size is damaged");
        const Meta second = read_meta(first.page_size);
        if (second.page_size != first.page_size) damaged("its page size is damaged");
        const Meta newest = second.transaction > first.transaction ? second : first;
        if (newest.depth > kMaxDepth) damaged("its tree is too deep");
        if (newest.last_page > uint64_t{1} << 47) damaged("it says that it has more pages than there can be");
        return newest;
    }

    // In a tree every page is reached once.
    void claim(uint64_t number) {
        if (number < 2 || number >= pages_)
            damaged(page_name(number) + " lies beyond its end: the file is truncated or damaged");
        if (seen_[number]) damaged(page_name(number) + " is reached twice");
        seen_[number] = true;
    }

    const uint8_t* enter(uint64_t number, uint16_t kind) {
        claim(number);
        const uint8_t* page = file_ + number * page_size_;
        resident_.read(page);
        const uint16_t kinds = kBranchPage | kLeafPage | kOverflowPage | kMetaPage;
        if (load<uint64_t>(page) != number || (load<uint16_t>(page + 10) & kinds) != kind)
            damaged(page_name(number) + " is damaged");
        return page;
    }

    void descend(uint64_t number, uint64_t level) {
        const bool leaf = level == depth_;
        if (level > depth_) damaged("its tree is deeper than written");
        const uint8_t* page = enter(number, leaf ? kLeafPage : kBranchPage);
        const size_t lower = load<uint16_t>(page + 12), upper = load<uint16_t>(page + 14);
        if (lower <= kPageHeader || lower % 2 || lower > upper || upper > page_size_)
            damaged(page_name(number) + " is damaged");
        for (size_t slot = kPageHeader; slot < lower; slot += 2) {
            const size_t at = load<uint16_t>(page + slot);
            if (at < upper || at + kNodeHeader > page_size_) damaged(page_name(number) + " is damaged");
            if (leaf)
                read_leaf_node(page, at, number);
            else
                descend(branch_child(page + at), level + 1);
        }
    }

    static uint64_t branch_child(const uint8_t* node) {
        return load<uint32_t>(node) | uint64_t{load<uint16_t>(node + 4)} << 32;
    }

    void read_leaf_node(const uint8_t* page, size_t at, uint64_t number) {
        const uint8_t* node = page + at;
        const uint64_t size = load<uint32_t>(node);
        const uint16_t flags = load<uint16_t>(node + 4), key_size = load<uint16_t>(node + 6);
        const bool big = flags == kBigData;
        const size_t key_end = at + kNodeHeader + key_size;
        if ((flags && !big) || key_size == 0 || key_size > kMaxKey || key_end + (big ? 8 : size) > page_size_)
            damaged(page_name(number) + " is damaged");
        const std::string_view key(reinterpret_cast<const char*>(node + kNodeHeader), key_size);
        if (entries_ && key <= last_key_) damaged("its keys are out of order");
        last_key_ = key;
        ++entries_;
        const uint64_t value = number * page_size_ + key_end;
        visit_(key, {big ? overflow_value(load<uint64_t>(page + key_end), size) : value, size});
    }

    // The pages of the value itself are not touched, since opening a large cache must not read the whole file.
    uint64_t overflow_value(uint64_t number, uint64_t size) {
        claim(number);
        const uint64_t offset = number * page_size_ + kPageHeader;
        if (size > file_size_ - offset)
            damaged(page_name(number) + " reaches beyond its end: the file is truncated or damaged");
        return offset;
    }

    const uint8_t* file_;
    size_t file_size_;
    const LmdbVisitor& visit_;
    uint64_t page_size_ = 0, pages_ = 0, depth_ = 0, entries_ = 0;
    std::vector<bool> seen_;
    std::string_view last_key_;
    ResidentPages resident_;
};

}  // namespace

uint64_t walk_lmdb(const uint8_t* file, size_t file_size, const LmdbVisitor& visit, Residency residency) {
    return Walk(file, file_size, visit, residency).run();
}

}  // namespace fastload
