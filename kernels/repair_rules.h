/*
 * When a fit of repair is believed: the same on every backend. Fewer rows than MIN_FIT_ROWS say
 * nothing. A gain in squared error below the share MIN_GAIN, or below MIN_SPREADS of its own
 * standard errors from row to row, may be chance.
 */
#ifndef DRAFTATTN_KERNELS_REPAIR_RULES_H
#define DRAFTATTN_KERNELS_REPAIR_RULES_H

#define MIN_FIT_ROWS 16
#define MIN_GAIN     0.02
#define MIN_SPREADS  1

#endif
