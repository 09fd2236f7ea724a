"""Run the user's code: what a pass is, its source, one draw with autograd's gradients, scripts, sessions."""
