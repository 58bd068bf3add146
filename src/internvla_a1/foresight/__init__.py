"""Making the predicted future visible and measurable: pictures, tool path, ghost arm, surprise. numpy and OpenCV only."""
