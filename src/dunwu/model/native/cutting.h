/* How a product is cut into work that threads share: outputs of a matrix, and panels of rows where there are many. */
#ifndef DUNWU_CUTTING_H
#define DUNWU_CUTTING_H

#include "products.h"
#include "team.h"

#define CHUNK 48  /* outputs of an item, at most */
#define PANEL 128 /* and rows, where there are more */
#define LONGEST (CHUNK * PANEL / MOST_R)
#define FEW 16 /* rows that every thread normalises and rounds for itself: that costs less than waiting */

static int64_t panels_of(int64_t rows) { return (rows + PANEL - 1) / PANEL; }

/* Rows of panel `number`, all nearly alike. */
static int64_t panel(int64_t rows, int64_t number, int64_t *first) {
    const int64_t panels = panels_of(rows), size = ((rows + panels - 1) / panels + MOST_R - 1) / MOST_R * MOST_R;
    *first = number * size < rows ? number * size : rows;
    return rows - *first < size ? rows - *first : size;
}

/* How the outputs of a phase are cut: into items of `size` outputs of one panel. Few rows read the weights once, so that a thread
   takes many neighbouring items at a time, at most `most`: one long piece, which the processor foresees. */
typedef struct {
    int64_t outputs, size, panels, items, most;
} Cut;

static Cut cut_for(int64_t outputs, int64_t rows) {
    const int64_t size = rows <= MOST_R && outputs < 4096 ? CHUNK / 2 : CHUNK, panels = panels_of(rows);
    return (Cut){outputs, size, panels, (outputs + size - 1) / size * panels, rows <= MOST_R ? LONGEST / size : 1};
}

/* Outputs `*start` to `*end` of neighbouring items, and their panel. */
static void outputs_of(const Cut *cut, Items items, int64_t *start, int64_t *end, int64_t *panel) {
    *panel = items.first % cut->panels;
    *start = items.first / cut->panels * cut->size;
    *end = *start + items.count * cut->size < cut->outputs ? *start + items.count * cut->size : cut->outputs;
}

/* The next outputs for this thread, and the rows to multiply them with; whether there are any. */
static int next_outputs(const Cut *cut, Share *shares, const Team *team, int thread, int64_t all_rows, int64_t *start, int64_t *end,
                        int64_t *row, int64_t *rows) {
    int64_t number;
    const Items items = take(shares, team->threads, thread, cut->items, cut->most);
    if (!items.count) return 0;
    outputs_of(cut, items, start, end, &number);
    *rows = panel(all_rows, number, row);
    return 1;
}

#endif
